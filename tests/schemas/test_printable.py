"""Texts that were not written for a line become one."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from schemas import wire
from schemas.limits import MAX_REASON_CHARS, MAX_RECEIPT_CHARS
from schemas.messages import QueryOutcome, Receipt
from schemas.printable import as_reason, printable
from schemas.topics import Family
from schemas.types import FrameId, Outcome

any_text = st.text(st.characters(), max_size=250) | st.text(st.characters(categories=["Cs", "Cc"]), max_size=60)
"""Half surrogate pairs too: Python makes them of file names that are no UTF-8."""


@given(any_text)
def test_any_text_is_a_reason_that_the_wire_carries(text: str) -> None:
    outcome = QueryOutcome(
        query_id="c/@m/q", owner="client/m", camera="c", frame=FrameId(1, 2), question_id="q", outcome=Outcome.FAILED,
        reason=as_reason(text),
    )  # fmt: skip
    receipt = Receipt(site="n", about="q", accepted=False, reason=as_reason(text, MAX_RECEIPT_CHARS))

    assert wire.decode(Family.OUTCOME, wire.encode(outcome)) == outcome
    assert wire.decode(Family.REPLY, wire.encode(receipt)) == receipt
    assert outcome.reason.isprintable()
    assert len(outcome.reason) <= MAX_REASON_CHARS


def test_a_plain_sentence_stays_as_it_is_and_other_lines_become_one() -> None:
    name = os.fsdecode(b"caf\xe9.mp4")

    assert as_reason("Das Tor ist zu: 3 Latents fehlen") == "Das Tor ist zu: 3 Latents fehlen"
    assert as_reason(f"cannot open {name}\n  line 2") == "cannot open caf\\udce9.mp4\\n  line 2"
    assert printable("two\nlines\x1b[2J") == "two\nlines\\x1b[2J"
