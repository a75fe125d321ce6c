"""Ad-hoc questions as they arrive: who may ask now, what is no question, and how the client hears of it.

Nothing that a client sends costs the site more than its budget. Within it each mistake has one answer and one line in
the log, beyond it there is silence and a counter.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final

from edge_nodes.asks import AskDesk
from edge_nodes.client_budgets import ASK_TOKENS, ClientBudgets
from edge_nodes.outbox import Outbox, reply_wire_bytes
from pipeline.bus.base import Inbound
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.config.settings import EdgeSettings
from pipeline.node.clock import Clock
from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.reply_to import reply_to
from pipeline.protocol.token_bucket import TokenBucket
from pipeline.protocol.worker_work import question_tokens
from schemas import topics
from schemas.errors import RemoteError
from schemas.limits import MAX_CORRELATION_BYTES, MAX_JSON_BYTES, MAX_RECEIPT_CHARS
from schemas.messages import Ask, Receipt
from schemas.printable import as_reason
from schemas.topics import Family, Topic
from schemas.types import NAME_PATTERN

_log = get_logger(__name__)

MAX_ASKS_BEING_STORED: Final = 256
"""Asks between their arrival and the disk."""
MAX_MISTAKES: Final = 256
"""Mistakes of clients that are told apart; the one that was made longest ago is new when it is made again."""
MISTAKE_LINES_PER_S: Final = 1.0
MISTAKE_LINES: Final = 60
"""Lines about mistakes of clients, a second in the long run and at once: names can be invented on a plain broker."""
NO_QUERY_ID: Final = "unreadable"
"""Question id of the outcome of a message that has no readable id."""


class AskIntake:
    """Takes in what comes on the ask topics of a site.

    Args:
        settings: the edge section.
        desk: where questions go.
        budgets: what each client may cost.
        outbox: what the site publishes.
        problems: what peers did wrong, counted by kind.
        acknowledge: acknowledges a message.
        spawn: runs work beside, under a name.
        clock: the edge's clock.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        desk: AskDesk,
        budgets: ClientBudgets,
        outbox: Outbox,
        *,
        problems: OncePerKind,
        acknowledge: Callable[[Inbound], None],
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._desk = desk
        self._budgets = budgets
        self._outbox = outbox
        self._problems = problems
        self._acknowledge = acknowledge
        self._spawn = spawn
        self._clock = clock
        self._being_stored = 0
        self._mistakes: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._lines = TokenBucket(MISTAKE_LINES_PER_S, MISTAKE_LINES, clock.now_s())

    def receive(self, inbound: Inbound, camera: str, client: str, ask: Ask) -> None:
        """Take a question in. It is acknowledged when it is stored, not before.

        Raises:
            WireSizeError: more correlation data than is kept.
        """
        if camera not in self._settings.cameras:
            # The broker may keep a subscription of an earlier process, which had this camera.
            self._problems.report("ask/camera", "an ad-hoc question to a camera that this site does not have")
        elif inbound.retain:
            # Commands are never retained: this one would be asked again after each reconnect, for ever.
            self._problems.report(
                "ask/retained", "an ad-hoc question was published with the retain flag", camera=camera
            )
        else:
            address = reply_to(inbound.response_topic, inbound.correlation_data, camera, client, ask.query_id)
            tokens = question_tokens(ask.content(client).prompt, ask.answer_type)
            if not self._budgets.ask(client, tokens):
                budget = self._budgets.of(client)
                problem = (
                    f"over the budget of this client: {budget.asks_per_s:g} questions a second, "
                    f"{budget.burst_asks} at once; one of more than {ASK_TOKENS} tokens counts as several"
                )
                self._mistake("budget", client, problem, camera=camera)
                self._desk.refuse(camera, client, ask, address, problem)
            elif self._being_stored >= MAX_ASKS_BEING_STORED:
                self._problems.report("ask/flood", "more questions at once than the edge can store", camera=camera)
                self._desk.refuse(camera, client, ask, address, "more questions at once than the edge can store")
            else:
                self._being_stored += 1
                store = self._store(inbound, camera, client, ask, address)
                self._spawn(store, f"ask {client}/{ask.query_id}")
                return
        self._acknowledge(inbound)

    def unreadable(self, inbound: Inbound, error: RemoteError) -> None:
        """What came is no question: tell its client once, within its budget. Acknowledges nothing."""
        topic = topics.parse(inbound.topic)
        camera, client = topic.name("camera"), topic.name("client")
        reason = getattr(error, "reason", type(error).__name__)
        if camera not in self._settings.cameras or inbound.retain:
            self._problems.report(f"ask/{reason}", str(error), topic=inbound.topic)
            return
        if not self._budgets.ask(client):
            self._problems.counts[f"ask/{reason}"] += 1
            return
        self._mistake(reason, client, str(error), camera=camera)
        query_id = _query_id(inbound.payload)
        reply = _own_reply_topic(inbound, camera, client)
        if reply is None:
            self._desk.refuse_unreadable(camera, client, query_id or NO_QUERY_ID, str(error))
            return
        said = as_reason(str(error), MAX_RECEIPT_CHARS)
        receipt = Receipt(site=self._settings.site, about=query_id, accepted=False, reason=said)
        correlation = inbound.correlation_data
        fits = correlation is not None and len(correlation) <= MAX_CORRELATION_BYTES
        address = ReplyTo(inbound.response_topic or "", correlation if fits else None)
        if self._budgets.say(client, reply_wire_bytes(receipt, address)):
            self._outbox.receipt(receipt, address)

    def _mistake(self, kind: str, client: str, problem: str, **context: Any) -> None:
        """Count a mistake; log it when this client makes it for the first, tenth, hundredth... time."""
        self._problems.counts[f"ask/{kind}"] += 1
        mistake = (kind, client, problem)
        count = self._mistakes.pop(mistake, 0) + 1
        self._mistakes[mistake] = count
        if len(self._mistakes) > MAX_MISTAKES:
            self._mistakes.popitem(last=False)
        if count == 10 ** (len(str(count)) - 1) and self._lines.take(1, self._clock.now_s()):
            _log.warning("message dropped", kind=f"ask/{kind}", client=client, problem=problem, count=count, **context)

    async def _store(self, inbound: Inbound, camera: str, client: str, ask: Ask, address: ReplyTo | None) -> None:
        try:
            await self._desk.receive(camera, client, ask, address)
        finally:
            self._being_stored -= 1
            self._acknowledge(inbound)


def _own_reply_topic(inbound: Inbound, camera: str, client: str) -> Topic | None:
    """The reply topic that a message names, if it is one of its client's own for this camera."""
    try:
        topic = topics.parse(inbound.response_topic or "")
    except RemoteError:
        return None
    own = topic.family is Family.REPLY and topic.names[:2] == (client, camera)
    return topic if own else None


def _query_id(payload: bytes) -> str:
    """The query id of what is no question, as far as it has a readable one; else empty."""
    if len(payload) > MAX_JSON_BYTES:
        return ""
    try:
        values = json.loads(payload)
    except (ValueError, RecursionError):
        return ""
    found = values.get("query_id") if isinstance(values, dict) else None
    return found if isinstance(found, str) and re.fullmatch(NAME_PATTERN, found) else ""
