"""Keeps the broker and the site of one mind about the standing questions, and answers who changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from edge_nodes.client_budgets import ClientBudgets
from edge_nodes.outbox import Outbox, reply_wire_bytes
from edge_nodes.questions import QuestionBoard
from pipeline.bus.base import ConnectionChange, Inbound
from pipeline.config.logs import OncePerKind
from pipeline.node.clock import Clock
from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.token_bucket import TokenBucket
from schemas import topics
from schemas.errors import RemoteError
from schemas.limits import MAX_CORRELATION_BYTES, MAX_RECEIPT_CHARS
from schemas.messages import Question, Receipt
from schemas.printable import as_reason

CORRECTIONS_PER_S: Final = 1.0
CORRECTIONS: Final = 64
"""Questions that are put back after a change on the bus, a second in the long run and at once; later ones wait for the
next connection."""


class StandingQuestions:
    """What an edge does with what comes on its question topics.

    Args:
        site: this edge.
        board: what is asked.
        outbox: what the site publishes.
        budgets: what each client may be told.
        problems: what peers did wrong.
        spawn: runs work beside, under a name.
        clock: the edge's clock.
    """

    def __init__(
        self,
        site: str,
        board: QuestionBoard,
        outbox: Outbox,
        budgets: ClientBudgets,
        *,
        problems: OncePerKind,
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
        clock: Clock,
    ) -> None:
        self._site = site
        self._board = board
        self._outbox = outbox
        self._budgets = budgets
        self._problems = problems
        self._spawn = spawn
        self._clock = clock
        self._corrections = TokenBucket(CORRECTIONS_PER_S, CORRECTIONS, clock.now_s())
        self._correcting: set[str] = set()
        self._generation = self._ended_generation = 0
        self._resumed = False
        self._last_will = -1

    def connected(self, change: ConnectionChange) -> None:
        """A connection is made: what the broker retains comes anew."""
        self._ended_generation, self._generation = self._generation, change.generation
        self._resumed, self._last_will = change.session_resumed, -1
        self._board.connected()

    def last_will(self, inbound: Inbound) -> None:
        """The retained last will of this process came: the broker remembers what was before that connection ended."""
        number = inbound.correlation_data or b""
        if number.isdigit():
            self._last_will = int(number)

    def receive(self, inbound: Inbound, question_id: str, question: Question | None) -> None:
        """A question as its topic has it; None when it was deleted there."""
        verdict = self._board.receive(question_id, question, retained=inbound.retain)
        if not verdict.accepted:
            problem = f"question {question_id}: {verdict.reason}"
            self._problems.report("question/refused", problem, about=question_id)
        if not (verdict.ours or inbound.retain):
            self._receipt(inbound, question_id, accepted=verdict.accepted, reason=verdict.reason)
        self._correct(question_id)

    def unreadable(self, inbound: Inbound, error: RemoteError) -> None:
        """What came is no question. The broker shall not keep it: the next process would drop it again."""
        question_id = topics.parse(inbound.topic).name("question_id")
        self._problems.remote_error("question", error, topic=inbound.topic)
        self._board.unreadable(question_id)
        if not inbound.retain:
            self._receipt(inbound, question_id, accepted=False, reason=str(error))
        self._correct(question_id)

    async def settle(self, *, complete: bool = True) -> None:
        """Publish what the broker lacks, delete what is asked no more.

        Args:
            complete: everything that the broker retains is known to have come.
        """
        # A session that was kept has the deletions in its queue.
        remembers = complete and not self._resumed and 0 < self._ended_generation <= self._last_will
        differing = self._board.settle(remembers=remembers)
        await asyncio.gather(*(self._publish(question_id) for question_id in differing))

    def _correct(self, question_id: str) -> None:
        if not self._board.settled or question_id in self._correcting or not self._board.differs(question_id):
            return
        if self._corrections.take(1, self._clock.now_s()):
            self._correcting.add(question_id)
            self._spawn(self._publish(question_id), f"question {question_id}")
        else:
            self._problems.counts["question/not_corrected"] += 1

    async def _publish(self, question_id: str) -> None:
        try:
            while self._board.differs(question_id):
                wanted = self._board.publishes(question_id)
                # Of a deletion the content says only which topic it is.
                shown = wanted or Question(site=self._site, question_id=question_id, text="?")
                accepted = await self._outbox.question(shown, clears=wanted is None)
                self._board.published(question_id, wanted, refused=not accepted)
        finally:
            self._correcting.discard(question_id)

    def _receipt(self, inbound: Inbound, about: str, *, accepted: bool, reason: str) -> None:
        """Tell the sender of a message what became of it, if it has said where."""
        if inbound.response_topic is None or len(inbound.correlation_data or b"") > MAX_CORRELATION_BYTES:
            return
        try:
            topic = topics.parse(inbound.response_topic)
        except RemoteError:
            return
        if topic.family is not topics.Family.RECEIPT or topic.name("site") != self._site:
            return
        said = as_reason(reason, MAX_RECEIPT_CHARS)
        receipt = Receipt(site=self._site, about=about, accepted=accepted, reason=said)
        address = ReplyTo(inbound.response_topic, inbound.correlation_data)
        if self._budgets.say(topic.name("client"), reply_wire_bytes(receipt, address)):
            self._outbox.receipt(receipt, address)
