"""When stored frames are sent: everything else goes first, and the pool has time."""

from __future__ import annotations

from typing import Final

from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.effects import HistoryOffered
from pipeline.protocol.frame_store import FrameStore, HistoryFrame
from pipeline.protocol.load_shedding import LoadShedding
from pipeline.protocol.ports import Contained
from pipeline.protocol.question_sync import QuestionSync
from pipeline.protocol.standing_questions import StandingQuestions
from pipeline.protocol.uplink import Uplink
from pipeline.protocol.uplink_budget import UplinkBudget
from schemas.types import UplinkStage

HISTORY_AFTER_TROUBLE_S: Final = 20.0
"""Stored frames wait so long after the pool had too much work, as far as live frames have shown."""


class HistorySender:
    """Takes frames out of the store and asks their questions.

    Args:
        store: the stored frames.
        frames: of the session; they become new queries there.
        standing: which questions are asked now.
        sync: whether the broker has told them all.
        uplink: whether anything waits for it.
        budget: of the uplink.
        load_shedding: when the pool had too much work.
    """

    def __init__(
        self,
        store: FrameStore,
        frames: EdgeFrames,
        standing: StandingQuestions,
        sync: QuestionSync,
        uplink: Uplink,
        budget: UplinkBudget,
        load_shedding: LoadShedding,
    ) -> None:
        self._store = store
        self._frames = frames
        self._standing = standing
        self._sync = sync
        self._uplink = uplink
        self._budget = budget
        self._load_shedding = load_shedding
        self._changes_seen = 0

    def send(self, now_s: float) -> None:
        """Have stored frames read while they may be sent."""
        while self._may_send(now_s) and self._store.forward():
            pass

    def open_read(self, now_s: float) -> list[HistoryOffered | Contained]:
        """Ask the questions of stored frames that were read; drop those of questions that stand no more."""
        if self._standing.settled and self._changes_seen != self._standing.changes:
            self._changes_seen = self._standing.changes
            self._store.prune(self._standing.asked, now_s)
        outputs: list[HistoryOffered | Contained] = []
        for history in self._store.take_history():
            try:
                outputs += self._open(history, now_s)
            except Exception as error:  # noqa: BLE001 - it ends this frame, not the site
                outputs.append(Contained("history", error))
                self._store.unusable(history.entry_id)
        return outputs

    def _may_send(self, now_s: float) -> bool:
        return (
            self._store.wants_out()
            and self._sync.out
            and self._standing.settled
            and not self._uplink.waiting
            and self._budget.stage is UplinkStage.NORMAL
            and self._pool_has_time(now_s)
        )

    def _pool_has_time(self, now_s: float) -> bool:
        has_time = now_s - self._load_shedding.trouble_s >= HISTORY_AFTER_TROUBLE_S
        if not has_time:
            self._store.pause(now_s)
        return has_time

    def _open(self, history: HistoryFrame, now_s: float) -> list[HistoryOffered]:
        queries = self._store.queries(history.entry_id, self._standing.asked, now_s)
        if not queries:
            return []
        frame = self._frames.offer(
            history.camera,
            history.latent,
            history.base_latents,
            queries,
            now_s,
            age_ms=history.age_ms,
            history=True,
        )
        self._store.offered(history.entry_id, frame, len(queries))
        return [HistoryOffered(history.camera, frame, history.latent, queries, history.age_ms)]
