"""What operators say about a site on its config topic: checked as a whole, done, answered, and kept by the broker.

As with questions (:mod:`pipeline.protocol.question_sync`) the broker is the store: what is refused is replaced there by
what holds, a deletion gives the site back to its settings, and a broker that has forgotten is told again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Final

from pipeline.protocol.asking_rules import AskingRules
from pipeline.protocol.edge_reports import EdgeReports
from pipeline.protocol.ports import Problem, Received
from pipeline.protocol.receipts import Receipts
from pipeline.protocol.token_bucket import TokenBucket
from schemas.errors import RemoteError
from schemas.messages import SiteConfig

CORRECTIONS_PER_S: Final = 0.1
CORRECTIONS: Final = 8
"""Times that the message is put back after one that was refused, a second in the long run and at once."""
ABOUT: Final = "config"


class ConfigSync:
    """What an edge does with what comes on its config topic.

    Args:
        site: this edge.
        rules: what it changes.
        reports: what the edge says.
        receipts: tells operators.
        cameras: of the site.
        questions: gives the ids of its standing questions.
        now_s: the edge's monotonic time.
    """

    def __init__(
        self,
        site: str,
        rules: AskingRules,
        reports: EdgeReports,
        receipts: Receipts,
        *,
        cameras: Collection[str],
        questions: Callable[[], Collection[str]],
        now_s: float = 0.0,
    ) -> None:
        self._site = site
        self._rules = rules
        self._reports = reports
        self._receipts = receipts
        self._cameras = cameras
        self._questions = questions
        self._corrections = TokenBucket(CORRECTIONS_PER_S, CORRECTIONS, now_s)
        self._heard = False
        self._closed = False
        self._own: deque[SiteConfig | None] = deque(maxlen=CORRECTIONS)
        self._problems: list[Problem] = []

    def take_outputs(self) -> list[Problem]:
        """What the log shall say, since the last call, in order."""
        problems, self._problems = self._problems, []
        return problems

    def connected(self) -> None:
        """A connection is made: the broker sends what it retains anew."""
        self._heard = False
        self._own.clear()

    def settled(self, remembers: bool) -> None:
        """Everything that the broker retains has come.

        Args:
            remembers: what it does not retain was deleted; else it may have been lost, and is published again.
        """
        if self._heard or self._closed or self._rules.config is None:
            return
        if remembers:
            self._rules.apply(None)
        else:
            self._publish()

    def close(self) -> None:
        """The edge is about to stop."""
        self._closed = True

    def receive(self, received: Received, config: SiteConfig | None, now_s: float) -> None:
        """What an operator says; None when it was deleted."""
        self._heard = True
        if not received.retained and self._own and self._own[0] == config:
            self._own.popleft()
            if config != self._rules.config:  # it has taken the place of what was accepted meanwhile
                self._publish()
            return
        if config == self._rules.config:
            self._tell(received, now_s, accepted=True, reason="nothing changes")
            return
        refusal = "" if config is None else self._rules.refusal(config, self._cameras, self._questions())
        if refusal:
            self._refuse(received, refusal, None, now_s)
            return
        self._tell(received, now_s, accepted=True, reason=self._rules.apply(config))

    def unreadable(self, received: Received, error: RemoteError, now_s: float) -> None:
        """What came cannot be read."""
        self._heard = True
        self._refuse(received, str(error), error, now_s)

    def _refuse(self, received: Received, reason: str, error: RemoteError | None, now_s: float) -> None:
        context = {"topic": received.topic}
        kind = "config/refused" if error is None else "config"
        self._problems.append(Problem(kind, reason, error=error, about=ABOUT, context=context))
        self._tell(received, now_s, accepted=False, reason=f"nothing was changed: {reason}")
        if not self._closed and self._corrections.take(1, now_s):
            self._publish()

    def _publish(self) -> None:
        """Let the broker retain what holds; it comes back, as everything on the topic does."""
        self._own.append(self._rules.config)
        self._reports.config(self._site, self._rules.config)

    def _tell(self, received: Received, now_s: float, *, accepted: bool, reason: str) -> None:
        if not received.retained:
            self._receipts.tell(received, ABOUT, now_s, accepted=accepted, reason=reason)
