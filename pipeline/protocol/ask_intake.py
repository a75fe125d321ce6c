"""Ad-hoc questions as they arrive: who may ask now, what is no question, and how the client hears of it.

Nothing that a client sends costs the site more than its budget. Within it each mistake has one answer and one line in
the log, beyond it there is silence and a counter.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from pipeline.protocol.ad_hoc_questions import AdHocQuestions
from pipeline.protocol.client_budgets import ASK_TOKENS, ClientBudgets
from pipeline.protocol.edge_reports import EdgeReports, reply_wire_bytes
from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.ports import Notice, Problem, Received
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
        site: this edge.
        cameras: its cameras.
        questions: where questions go.
        budgets: what each client may cost.
        reports: what the edge says.
        acknowledge: called with the token of a message that is done with.
        now_s: the edge's monotonic time.
    """

    def __init__(
        self,
        site: str,
        cameras: Collection[str],
        questions: AdHocQuestions,
        budgets: ClientBudgets,
        reports: EdgeReports,
        *,
        acknowledge: Callable[[int | None], None],
        now_s: float = 0.0,
    ) -> None:
        self._site = site
        self._cameras = cameras
        self._questions = questions
        self._budgets = budgets
        self._reports = reports
        self._acknowledge = acknowledge
        self._being_stored = 0
        self._mistakes: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._lines = TokenBucket(MISTAKE_LINES_PER_S, MISTAKE_LINES, now_s)
        self._outputs: list[Problem | Notice] = []

    def take_outputs(self) -> list[Problem | Notice]:
        """What the log shall say, since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def receive(self, received: Received, camera: str, client: str, ask: Ask, now_s: float) -> None:
        """Take a question in. It is acknowledged when it is stored, not before.

        Raises:
            WireSizeError: more correlation data than is kept; nothing is acknowledged then.
        """
        if camera not in self._cameras:
            # The broker may keep a subscription of an earlier process, which had this camera.
            problem = "an ad-hoc question to a camera that this site does not have"
            self._outputs.append(Problem("ask/camera", problem))
        elif received.retained:
            # Commands are never retained: this one would be asked again after each reconnect, for ever.
            problem = "an ad-hoc question was published with the retain flag"
            self._outputs.append(Problem("ask/retained", problem, context={"camera": camera}))
        else:
            address = reply_to(received.response_topic, received.correlation_data, camera, client, ask.query_id)
            refusal = self._refusal(camera, client, ask, now_s)
            if refusal is None:
                self._being_stored += 1
                done = partial(self._stored, received.token)
                self._questions.receive(camera, client, ask, address, now_s, done=done)
            else:
                done = partial(self._acknowledge, received.token)
                self._questions.refuse(camera, client, ask, address, refusal, now_s, done=done)
            return
        self._acknowledge(received.token)

    def _refusal(self, camera: str, client: str, ask: Ask, now_s: float) -> str | None:
        """Why a question may not be stored now; None when it may."""
        tokens = question_tokens(ask.content(client).prompt, ask.answer_type)
        if not self._budgets.ask(client, now_s, tokens):
            budget = self._budgets.of(client)
            problem = (
                f"over the budget of this client: {budget.asks_per_s:g} questions a second, "
                f"{budget.burst_asks} at once; one of more than {ASK_TOKENS} tokens counts as several"
            )
            self._mistake("budget", client, problem, camera, now_s)
        elif self._being_stored >= MAX_ASKS_BEING_STORED:
            problem = "more questions at once than the edge can store"
            self._outputs.append(Problem("ask/flood", problem, context={"camera": camera}))
        else:
            return None
        return problem

    def _stored(self, token: int | None) -> None:
        self._being_stored -= 1
        self._acknowledge(token)

    def unreadable(self, received: Received, error: RemoteError, now_s: float) -> None:
        """What came is no question: tell its client once, within its budget. Acknowledges nothing."""
        topic = topics.parse(received.topic)
        camera, client = topic.name("camera"), topic.name("client")
        reason = getattr(error, "reason", type(error).__name__)
        if camera not in self._cameras or received.retained:
            self._outputs.append(Problem(f"ask/{reason}", str(error), context={"topic": received.topic}))
            return
        if not self._budgets.ask(client, now_s):
            self._outputs.append(Problem(f"ask/{reason}", str(error), logged=False))
            return
        self._mistake(reason, client, str(error), camera, now_s)
        query_id = _query_id(received.payload)
        reply = _own_reply_topic(received, camera, client)
        if reply is None:
            self._questions.refuse_unreadable(camera, client, query_id or NO_QUERY_ID, str(error), now_s)
            return
        said = as_reason(str(error), MAX_RECEIPT_CHARS)
        receipt = Receipt(site=self._site, about=query_id, accepted=False, reason=said)
        correlation = received.correlation_data
        fits = correlation is not None and len(correlation) <= MAX_CORRELATION_BYTES
        address = ReplyTo(received.response_topic or "", correlation if fits else None)
        if self._budgets.say(client, reply_wire_bytes(receipt, address), now_s):
            self._reports.receipt(receipt, address)

    def _mistake(self, kind: str, client: str, problem: str, camera: str, now_s: float) -> None:
        """Count a mistake; log it when this client makes it for the first, tenth, hundredth... time."""
        self._outputs.append(Problem(f"ask/{kind}", problem, logged=False))
        mistake = (kind, client, problem)
        count = self._mistakes.pop(mistake, 0) + 1
        self._mistakes[mistake] = count
        if len(self._mistakes) > MAX_MISTAKES:
            self._mistakes.popitem(last=False)
        if count == 10 ** (len(str(count)) - 1) and self._lines.take(1, now_s):
            context = {"kind": f"ask/{kind}", "client": client, "problem": problem, "count": count, "camera": camera}
            self._outputs.append(Notice("warning", "message dropped", context))


def _own_reply_topic(received: Received, camera: str, client: str) -> Topic | None:
    """The reply topic that a message names, if it is one of its client's own for this camera."""
    try:
        topic = topics.parse(received.response_topic or "")
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
