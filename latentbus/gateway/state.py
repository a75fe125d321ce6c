"""The latest answers of every camera, and what each site sends. Pure: answers and the time go in."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from latentbus.gateway.models import AnswerView, CameraView, QuestionView, SiteView, WorkerView
from pipeline.protocol.fleet_view import FleetView
from schemas.types import Outcome

STRIP: Final = 40
"""Outcomes of a question that are shown in a row."""
MAX_CAMERAS: Final = 8_192
MAX_QUESTIONS_PER_CAMERA: Final = 128
MAX_FRAMES_COUNTED: Final = 16_384
WINDOW_S: Final = 60
AD_HOC: Final = ""
"""Stands for the id of all questions that are asked once: the latest one is shown."""
_WITH_AN_ANSWER: Final = (Outcome.ANSWERED, Outcome.DEGRADED)


@dataclass(slots=True)
class _Question:
    text: str | None = None
    answer: AnswerView | None = None
    latest: AnswerView | None = None
    provisional: AnswerView | None = None
    strip: deque[AnswerView] = field(default_factory=lambda: deque(maxlen=STRIP))


@dataclass(slots=True)
class _Use:
    """Bytes and frames of a site by second."""

    seconds: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=WINDOW_S + 1))

    def add(self, second: int, size_bytes: int, frames: int) -> None:
        if self.seconds and self.seconds[-1][0] >= second:
            last, known_bytes, known_frames = self.seconds.pop()
            self.seconds.append((last, known_bytes + size_bytes, known_frames + frames))
        else:
            self.seconds.append((second, size_bytes, frames))

    def within(self, second: int) -> tuple[int, int]:
        recent = [entry for entry in self.seconds if second - WINDOW_S < entry[0] <= second]
        return sum(entry[1] for entry in recent), sum(entry[2] for entry in recent)


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """What a pool has to do.

    Attributes:
        workers: those that are online.
        held: frames that they hold.
        capacity: frames that they may hold.
    """

    workers: int = 0
    held: int = 0
    capacity: int = 0


class FleetState:
    """What the dashboard shows of cameras, sites and workers.

    Args:
        fleet: what the statuses say.
    """

    def __init__(self, fleet: FleetView) -> None:
        self._fleet = fleet
        self._cameras: OrderedDict[str, OrderedDict[str, _Question]] = OrderedDict()
        self._frames: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._use: dict[str, _Use] = {}

    def restore(self, outcomes: Iterable[AnswerView]) -> None:
        """What the history has of earlier processes, the oldest first; none of it is new traffic."""
        for outcome in outcomes:
            self._take(outcome)

    def observe(self, answer: AnswerView, now_s: float) -> None:
        """An answer or outcome came.

        Args:
            answer: it.
            now_s: monotonic time.
        """
        self._take(answer)
        if answer.payload_bytes is not None and answer.site is not None:
            frame = (answer.camera, answer.frame)
            before = self._frames.pop(frame, None)
            self._frames[frame] = max(answer.payload_bytes, before or 0)
            if len(self._frames) > MAX_FRAMES_COUNTED:
                self._frames.popitem(last=False)
            use = self._use.setdefault(answer.site, _Use())
            use.add(int(now_s), max(0, answer.payload_bytes - (before or 0)), before is None)

    def _take(self, answer: AnswerView) -> None:
        questions = self._cameras.pop(answer.camera, None)
        if questions is None:
            questions = OrderedDict()
            if len(self._cameras) >= MAX_CAMERAS:
                self._cameras.popitem(last=False)
        self._cameras[answer.camera] = questions
        key = AD_HOC if answer.ad_hoc else answer.question_id
        question = questions.get(key)
        if question is None:
            question = questions[key] = _Question()
            if len(questions) > MAX_QUESTIONS_PER_CAMERA:
                questions.popitem(last=False)
        if answer.question is not None or answer.ad_hoc:
            question.text = answer.question
        if question.latest is not None and _captured_s(answer) < _captured_s(question.latest):
            return  # of a frame that waited for the link: it is in the history
        if answer.outcome is None:
            question.provisional = answer
            return
        if question.provisional is not None and _replaces(answer, question.provisional):
            question.provisional = None
        question.latest = answer
        question.strip.append(answer)
        if answer.outcome in _WITH_AN_ANSWER:
            question.answer = answer

    def cameras(self, seen: Iterable[str] | None = None, *, questions: bool = True) -> tuple[CameraView, ...]:
        """Cameras by name: those that an edge serves, and those that have answered.

        Args:
            seen: cameras that may be seen; None for all.
            questions: with what they are asked.
        """
        names = {*self._fleet.cameras, *self._cameras, *(name for edge in self._fleet.edges for name in edge.cameras)}
        if seen is not None:
            names &= set(seen)
        return tuple(self.camera(name, questions=questions) for name in sorted(names))

    def camera(self, name: str, *, questions: bool = True) -> CameraView:
        """One camera."""
        found = self._cameras.get(name, OrderedDict()) if questions else OrderedDict()
        return CameraView(
            camera=name,
            site=self._fleet.site_of(name),
            online=self._fleet.serves(name),
            problem=self._fleet.problem(name),
            questions=tuple(_view(key, found[key]) for key in sorted(found, key=lambda key: (key == AD_HOC, key))),
        )

    def answers(self, camera: str, question_id: str) -> tuple[AnswerView | None, AnswerView | None]:
        """The latest answer to a standing question of a camera, and its latest outcome; None where there was none."""
        questions = self._cameras.get(camera)
        found = None if questions is None else questions.get(question_id)
        return (None, None) if found is None else (found.answer, found.latest)

    def knows(self, camera: str) -> bool:
        """Whether anything is known of a camera."""
        return camera in self._cameras or self._fleet.site_of(camera) is not None

    def sites(self, now_s: float, seen: frozenset[str] = frozenset()) -> tuple[SiteView, ...]:
        """Sites by name.

        Args:
            now_s: monotonic time.
            seen: cameras that may be seen; empty for all.
        """
        found = []
        for edge in self._fleet.edges:
            cameras = tuple(name for name in edge.cameras if not seen or name in seen)
            if seen and not cameras:
                continue
            size_bytes, frames = self._use.get(edge.id, _Use()).within(int(now_s))
            found.append(
                SiteView(
                    site=edge.id,
                    online=edge.online,
                    pool=edge.pool,
                    cameras=cameras,
                    uplink=edge.uplink,
                    latent_bytes_per_minute=size_bytes,
                    frames_per_minute=frames,
                )
            )
        known = {edge.id for edge in self._fleet.edges}
        for site in [site for site in self._use if site not in known]:
            del self._use[site]
        return tuple(found)

    def pools(self) -> dict[str, PoolLoad]:
        """Workers that are online, and what they hold, of each pool that has any or is asked."""
        found = {edge.pool: PoolLoad() for edge in self._fleet.edges if edge.pool is not None}
        for worker in self._fleet.workers:
            if worker.online and worker.pool is not None:
                load = found.get(worker.pool, PoolLoad())
                found[worker.pool] = PoolLoad(
                    load.workers + 1, load.held + worker.parked, load.capacity + worker.capacity
                )
        return found

    def workers(self, seen: frozenset[str] = frozenset()) -> tuple[WorkerView, ...]:
        """Workers by name; of the pools of the cameras that may be seen."""
        edges = [edge for edge in self._fleet.edges if not seen or seen & set(edge.cameras)]
        pools = {edge.pool for edge in edges}
        return tuple(
            WorkerView(
                worker=worker.id,
                online=worker.online,
                pool=worker.pool,
                fingerprint=worker.fingerprint,
                frames=worker.parked,
                capacity=worker.capacity,
            )
            for worker in self._fleet.workers
            if not seen or worker.pool in pools
        )

    def sizes(self) -> dict[str, int]:
        """Entries of its tables."""
        return {
            "cameras": len(self._cameras),
            "questions": sum(map(len, self._cameras.values())),
            "frames": len(self._frames),
            "sites": len(self._use),
        }


def _replaces(final: AnswerView, provisional: AnswerView) -> bool:
    """Whether an outcome is about the frame of a provisional answer, or a later one."""
    if final.query_id == provisional.query_id:
        return True
    boot, _, sequence = final.frame.partition("-")
    other_boot, _, other = provisional.frame.partition("-")
    return boot != other_boot or int(sequence) >= int(other)


def _captured_s(answer: AnswerView) -> float:
    """When the frame was taken, in seconds since 1970; minus infinity where nobody knows."""
    if answer.age_ms is None or not answer.late:
        return answer.at
    return float("-inf") if isinstance(answer.age_ms, str) else answer.at - answer.age_ms / 1000


def _view(key: str, question: _Question) -> QuestionView:
    return QuestionView(
        question_id=key,
        question=question.text,
        answer=question.answer,
        latest=question.latest,
        provisional=question.provisional,
        strip=tuple(question.strip),
    )
