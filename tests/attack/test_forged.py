"""What an attacker sends: every kind of message is among it, and no packet is larger than the broker takes."""

from __future__ import annotations

import random
from pathlib import Path

import latentbus
from broker_config.limits import MAX_PACKET_BYTES
from latentbus.attack import forged
from latentbus.attack.run import ATTACKS
from pipeline.protocol.client_budgets import ASK_TOKENS
from pipeline.protocol.worker_work import question_tokens
from schemas import wire
from schemas.errors import WireError
from schemas.limits import MAX_CHOICE_OPTIONS
from schemas.messages import BINARY_MESSAGES, JSON_MESSAGES, Ask, Busy, Open
from schemas.topics import MESSAGES, Family

DOCS = Path(latentbus.__file__).parents[1] / "docs"


def test_there_is_a_valid_message_of_every_kind_but_busy() -> None:
    made = forged.every_message("gate", "alice")
    assert {type(message) for message in made} | {Busy} == {*BINARY_MESSAGES, *JSON_MESSAGES}
    for message in made:
        family = next(family for family, kinds in MESSAGES.items() if isinstance(message, kinds))
        assert wire.decode(family, wire.encode(message)) == message


def test_the_longest_questions_are_allowed_and_a_budget_counts_them_as_many() -> None:
    for options, least in ((0, 10), (MAX_CHOICE_OPTIONS, 29)):
        ask = wire.decode(Family.ASK, forged.costly_ask("q", 1_000, options=options))
        assert isinstance(ask, Ask)
        assert question_tokens(ask.content("mallory").prompt, ask.answer_type) >= least * ASK_TOKENS


def test_what_is_no_message_is_drawn_by_the_seed_and_fits_a_packet() -> None:
    first, again, other = (list(forged.no_messages(random.Random(seed))) for seed in (1, 1, 2))
    assert first == again != other
    assert max(map(len, first)) < MAX_PACKET_BYTES - 1_000
    bad = 0
    for payload in first:
        try:
            wire.decode(Family.ASK, payload)
        except WireError:
            bad += 1
    assert bad > 0.9 * len(first)


def test_a_frame_of_the_stolen_site_asks_what_nobody_knows() -> None:
    message = wire.decode(Family.OPEN, forged.opened(3, 100, forged.DAY_MS))
    assert isinstance(message, Open)
    assert [ref.remaining_ms for ref in message.queries] == [100, forged.DAY_MS]
    other = wire.decode(Family.OPEN, forged.opened(4, 100))
    assert isinstance(other, Open)
    assert not {ref.digest for ref in message.queries} & {ref.digest for ref in other.queries}


def test_every_attack_says_what_it_does() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert {attack.group for attack in ATTACKS} == {"identity", "poison", "bounds"}
    page = (DOCS / "attack.md").read_text(encoding="utf-8")
    for attack in ATTACKS:
        assert attack.what.endswith(".")
        assert f"| `{attack.name}` | {attack.group} | {attack.what} |" in page
