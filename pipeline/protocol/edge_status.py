"""What an edge process says of itself on its status topic, and its last will."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.protocol.edge_reports import EdgeReports
from pipeline.protocol.ports import Will
from pipeline.protocol.site_settings import SiteSettings
from pipeline.protocol.uplink_budget import UplinkBudget
from schemas import topics, wire
from schemas.messages import Condition, Status
from schemas.messages.status import MAX_CONDITIONS
from schemas.types import UplinkStage


class EdgeStatus:
    """The status of one edge process.

    Args:
        site: what it is; its cameras do not change.
        boot: random id of this process start.
        fingerprint: first 4 bytes of the codec's fingerprint.
        budget: whose stage it says.
        unfinished: queries that have no outcome yet.
        reports: where it leaves.

    Attributes:
        online: it has not said farewell.
    """

    def __init__(
        self,
        site: SiteSettings,
        boot: int,
        fingerprint: bytes,
        budget: UplinkBudget,
        unfinished: Callable[[], int],
        reports: EdgeReports,
    ) -> None:
        self.online = True
        self._site, self._boot, self._fingerprint = site, boot, fingerprint
        self._budget, self._unfinished, self._reports = budget, unfinished, reports
        self._conditions: tuple[Condition, ...] = ()
        self._said = self._told()

    def will(self) -> Will:
        """What the broker says when this process vanishes."""
        offline = Status(kind="edge", id=self._site.site, boot=self._boot, online=False, pool=self._site.pool)
        return Will(topics.status_topic("edge", self._site.site), wire.encode(offline))

    def health(self, conditions: Sequence[Condition]) -> None:
        """What is wrong with this process, the worst first; those beyond what a status holds are left out."""
        self._conditions = tuple(conditions[:MAX_CONDITIONS])

    def say(self) -> None:
        """Say it, as it will be when it leaves."""
        self._said = self._told()
        self._reports.status(self._site.site, self._now)

    def say_what_changed(self) -> None:
        """Say it if something is worth a status of its own."""
        if self._said != self._told():
            self.say()

    def say_farewell(self) -> None:
        """The last word."""
        self.online = False
        self.say()

    def _told(self) -> tuple[UplinkStage, tuple[Condition, ...]]:
        """What is worth a status of its own."""
        return self._budget.stage, self._conditions

    def _now(self, _now_s: float) -> Status:
        return Status(
            kind="edge",
            id=self._site.site,
            boot=self._boot,
            online=self.online,
            pool=self._site.pool,
            fingerprint=self._fingerprint.hex(),
            parked=self._unfinished(),
            cameras=tuple(self._site.asked_of),
            uplink=self._budget.stage,
            conditions=self._conditions,
        )
