"""What would have been: the traffic of a log through the simulator, with another uplink, pool or policy.

The real edge and worker sessions run on a virtual clock, as in every simulation. Frames, questions, deadlines and sizes
of latents come from the log, and so do the answers. A run with the recorded parameters comes first: how far it is from
what was recorded is how far to trust the others.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from analysis.traffic import Traffic
from analysis.workload import RecordedFrame, Workload, round_trip_s
from latentbus.what_if.figures import Figures, FiguresOfRun
from latentbus.what_if.recorded_content import Bound, Gaps, LatentSizes, RecordedModel
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.edge_frame import EdgeStage
from pipeline.protocol.effects import AskedQuery
from pipeline.protocol.load_shedding import LoadSheddingSettings
from pipeline.protocol.stop_rule import StopRule
from schemas import topics
from schemas.errors import ConfigError
from simulation.broker import BrokerModel
from simulation.clock import VirtualClock
from simulation.edge_actor import EdgeActor
from simulation.links import LinkFaults
from simulation.scheduler_comparison import ORDERS, OURS
from simulation.specs import EdgeCallbacks, EdgeSpec, WorkerCallbacks, WorkerSpec
from simulation.worker_actor import WorkerActor

UNLIMITED_KBPS = 10_000_000.0
"""An edge without a limit."""
EDGE_TO_BROKER_S = 0.01
WORKER_TO_BROKER_S = 0.005
BROKER_TO_CLIENT_S = 0.001
"""What the actors and the model of the broker take for the way of a message, at least."""
_NO_LOAD_SHEDDING = LoadSheddingSettings(floor=1.0)
"""The frames of a log are those that its edges took."""
_NEWER_FRAMES = 2
"""Frames of a camera that wait behind one that is given up: an edge takes a fresh frame as soon as there is room, which
the log holds only at the times of its own room; one frame of patience makes up for that."""
_POOL = "main"
_AFTER_S = 5.0
"""Time after the last deadline in which the last words arrive."""
_PROGRESS_EVENTS = 2_000


@dataclass(frozen=True, slots=True)
class Parameters:
    """A fleet for recorded work.

    Attributes:
        site_kbps: uplink of each site; None has no limit.
        workers: workers in the pool.
        batch_s: time of a batch beside its frames, on one worker.
        frame_s: time of a frame in a batch.
        max_batch_frames: frames in one batch.
        edge_delay_s: delay of a delivery to each site, beside the simulator's own.
        stop_rule: when an answer is safe.
        base_latents: prefix that opens a frame; None as each frame was opened in the log.
        order: what decides which message leaves an uplink next, see :data:`ORDERS`.
        priorities: weight of cameras on the uplink; 1 where not given.
        seed: of what the simulator draws.
    """

    site_kbps: Mapping[str, float | None]
    workers: int
    batch_s: float
    frame_s: float
    max_batch_frames: int
    edge_delay_s: Mapping[str, float]
    stop_rule: StopRule
    base_latents: int | None = None
    order: str = OURS
    priorities: Mapping[str, float] = field(default_factory=dict)
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Changes:
    """What shall be different from the recorded fleet; None leaves it as it was.

    Attributes:
        site_kbps: uplink of every site; infinite has no limit.
        workers: workers in the pool.
        frame_ms: time of the model for a frame; the time of a batch beside its frames becomes 0.
        stop_rule: when an answer is safe.
        base_latents: prefix that opens a frame.
        order: what decides which message leaves an uplink next, see :data:`ORDERS`.
    """

    site_kbps: float | None = None
    workers: int | None = None
    frame_ms: float | None = None
    stop_rule: StopRule | None = None
    base_latents: int | None = None
    order: str | None = None

    def apply(self, recorded: Parameters) -> Parameters:
        """The parameters with the changes in them.

        Raises:
            ConfigError: a number is out of range, or the stop rule is one of another codec.
        """
        latent_count = recorded.stop_rule.ladder[-1]
        if self.workers is not None and self.workers < 1:
            raise ConfigError("workers", f"{self.workers} is not 1 or more")
        if self.site_kbps is not None and not self.site_kbps > 0:
            raise ConfigError("site_kbps", f"{self.site_kbps} is not above 0")
        if self.frame_ms is not None and not 0 <= self.frame_ms < math.inf:
            raise ConfigError("frame_ms", f"{self.frame_ms} is not 0 or more")
        if self.base_latents is not None and not 1 <= self.base_latents <= latent_count:
            raise ConfigError("base_latents", f"{self.base_latents} is not in 1..{latent_count}")
        if self.stop_rule is not None and self.stop_rule.ladder[-1] != latent_count:
            raise ConfigError(
                "stop rule",
                f"its ladder ends at {self.stop_rule.ladder[-1]} latents, the log's frames have {latent_count}",
            )
        if self.order is not None and self.order not in ORDERS:
            raise ConfigError("order", f"{self.order!r} is not one of {', '.join(ORDERS)}")
        parameters = recorded
        if self.site_kbps is not None:
            kbps = None if math.isinf(self.site_kbps) else self.site_kbps
            parameters = replace(parameters, site_kbps=dict.fromkeys(parameters.site_kbps, kbps))
        if self.workers is not None:
            parameters = replace(parameters, workers=self.workers)
        if self.frame_ms is not None:
            parameters = replace(parameters, batch_s=0.0, frame_s=self.frame_ms / 1000)
        if self.stop_rule is not None:
            parameters = replace(parameters, stop_rule=self.stop_rule)
        if self.base_latents is not None:
            parameters = replace(parameters, base_latents=self.base_latents)
        if self.order is not None:
            parameters = replace(parameters, order=self.order)
        return parameters


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """One simulation of a log.

    Attributes:
        figures: what came out.
        gaps: what it asked of the log that the log does not hold.
        bound: how that was filled in.
    """

    figures: Figures
    gaps: Gaps
    bound: Bound


def simulate_log(
    workload: Workload,
    parameters: Parameters,
    *,
    tables: FrequencyTables | None = None,
    progress: Callable[[float], None] = lambda _share: None,
) -> list[SimulatedRun]:
    """Run recorded work on a fleet.

    Args:
        workload: from the log.
        parameters: the fleet.
        tables: of the codec that the log was recorded with: they make sizes of ranges exact that were not recorded
            as such.
        progress: told the share of the virtual time that is over.

    Returns:
        One run, or two where the log lacks something that changes the figures: the pessimistic and the optimistic one.

    Raises:
        ConfigError: the log has no frame that can be simulated.
    """
    if not workload.frames:
        raise ConfigError("log", "no frame with a question, an open message and a deadline is in it")
    sizes = LatentSizes(workload.frames, parameters.stop_rule.ladder[-1], tables)
    pessimistic = _Run(workload, parameters, sizes, Bound.PESSIMISTIC).run(progress)
    if not (pessimistic.gaps.passes or pessimistic.gaps.ranges):
        return [pessimistic]
    return [pessimistic, _Run(workload, parameters, sizes, Bound.OPTIMISTIC).run(progress)]


def recorded_parameters(
    workload: Workload,
    traffic: Traffic,
    stop_rule: StopRule,
    *,
    site_kbps: Mapping[str, float | None],
    max_batch_frames: int = 16,
    priorities: Mapping[str, float] | None = None,
) -> Parameters:
    """The fleet of the log, as far as the log tells.

    Args:
        workload: from the log.
        traffic: the log.
        stop_rule: that the workers had.
        site_kbps: uplink of each site, None without a limit.
        max_batch_frames: that the workers had.
        priorities: weight of cameras on the uplink.
    """
    model = workload.model
    # Batches that found the worker idle were timed with the way to it and back, which the simulator adds itself.
    transport_s = (BROKER_TO_CLIENT_S + WORKER_TO_BROKER_S) * model.idle_share
    batch_s = max(0.0, model.batch_s - transport_s)
    frame_s = max(0.0, model.frame_s - max(0.0, transport_s - model.batch_s))
    delays = {}
    for site, cameras in workload.sites.items():
        measured_s = round_trip_s(traffic, cameras, site_kbps.get(site))
        if measured_s is None:
            workload.lacks["sites whose round trip is unknown, taken as none"] += 1
        delays[site] = max(0.0, (measured_s or 0.0) - EDGE_TO_BROKER_S - BROKER_TO_CLIENT_S)
    return Parameters(
        site_kbps={site: site_kbps.get(site) for site in workload.sites},
        workers=max(1, len(workload.workers)),
        batch_s=batch_s,
        frame_s=frame_s,
        max_batch_frames=max_batch_frames,
        edge_delay_s=delays,
        stop_rule=stop_rule,
        priorities=priorities or {},
    )


class _Run:
    """One run of a workload."""

    def __init__(self, workload: Workload, parameters: Parameters, sizes: LatentSizes, bound: Bound) -> None:
        self._workload = workload
        self._parameters = parameters
        self._sizes = sizes
        self._bound = bound
        self._gaps = Gaps()
        self._model = RecordedModel(sizes.latent_count, bound, self._gaps)
        self._clock = VirtualClock()
        seed = parameters.seed
        self._broker = BrokerModel(self._clock, random.Random(seed), LinkFaults(delay_s=0.0))
        self._figures = FiguresOfRun(self._model, lambda: self._clock.now_s - EDGE_TO_BROKER_S)
        self._broker.observers.append(self._figures.published)
        self._workers = [
            self._worker(number, random.Random(f"{seed}/{number}")) for number in range(parameters.workers)
        ]
        self._edges = {site: self._edge(site, cameras) for site, cameras in workload.sites.items()}
        self._edge_of = {camera: self._edges[site] for site, cameras in workload.sites.items() for camera in cameras}
        self._waiting: dict[str, deque[tuple[int, RecordedFrame]]] = {camera: deque() for camera in self._edge_of}
        self._offered: RecordedFrame = workload.frames[0]

    def run(self, progress: Callable[[float], None]) -> SimulatedRun:
        workload = self._workload
        for worker in self._workers:
            worker.start()
            for question in workload.questions.values():
                worker.tell(topics.question_topic(question.site, question.question_id), question)
        for edge in self._edges.values():
            edge.start()
            self._broker.link_faults(edge.site).extra_s = self._parameters.edge_delay_s[edge.site]
        for asked_s, asked in workload.asks:
            for worker in self._workers:
                topic = topics.ask_topic(asked.camera, asked.client)
                self._clock.at(asked_s, partial(worker.tell, topic, asked.ask))
        for index, frame in enumerate(workload.frames):
            self._clock.at(frame.offered_s, partial(self._due, index, frame))
        last_s = max(query.deadline_s for frame in workload.frames for query in frame.queries)
        events = 0
        while (next_s := self._clock.next_s()) is not None and next_s <= last_s + _AFTER_S:
            self._clock.step()
            events += 1
            if events % _PROGRESS_EVENTS == 0:
                progress(min(1.0, self._clock.now_s / last_s))
        progress(1.0)
        return SimulatedRun(self._figures.figures(), self._gaps, self._bound)

    def _due(self, index: int, frame: RecordedFrame) -> None:
        self._waiting[frame.camera].append((index, frame))
        self._take(frame.camera)

    def _room(self, camera: str | None) -> None:
        """Something of a camera left its uplink, or was withdrawn: after that, there may be room for a frame."""
        if camera is not None and self._waiting[camera]:
            self._clock.after(0.0, partial(self._take, camera))

    def _take(self, camera: str) -> None:
        """Offer a frame, as an edge takes it: when no open message of the camera waits for the uplink."""
        waiting, edge = self._waiting[camera], self._edge_of[camera]
        while waiting and not any(
            frame.camera == camera and frame.stage is EdgeStage.QUEUED for frame in edge.session.frames.undecided()
        ):
            index, frame = waiting.popleft()
            if len(waiting) >= _NEWER_FRAMES and not any(query.ad_hoc for query in frame.queries):
                self._figures.not_asked(len(frame.queries))
            else:
                self._offer(edge, index, frame)

    def _offer(self, edge: EdgeActor, index: int, frame: RecordedFrame) -> None:
        late_s = self._clock.now_s - frame.offered_s
        self._offered = frame = replace(frame, captured_s=frame.captured_s + late_s)
        base_latents = self._parameters.base_latents or frame.base_latents
        queries = [
            # A frame that is taken later gives its standing questions the same time; a client waits no longer.
            AskedQuery(query.question, query.deadline_s + (0.0 if query.ad_hoc else late_s))
            for query in frame.queries
        ]
        latent = self._sizes.latent(index, frame.trace, self._bound, self._gaps)
        as_key = self._sizes.as_key(index, frame.trace, self._bound, self._gaps)
        edge.capture(frame.camera, queries, latent=latent, as_key=as_key, base_latents=base_latents)

    def _query(self, _site: str, query_id: str, _deadline_s: float, ad_hoc: bool) -> None:
        """The edge took a query on: it stands for the recorded one of the same question."""
        for query in self._offered.queries:
            # Only the number of the frame may differ from the recorded one.
            recorded, now = query.query_id.rpartition("/"), query_id.rpartition("/")
            if query.ad_hoc == ad_hoc and (recorded == now if ad_hoc else recorded[2] == now[2]):
                self._model.know(query_id, query)
                self._figures.asked(query_id, self._offered.captured_s)

    def _worker(self, number: int, draw: random.Random) -> WorkerActor:
        parameters = self._parameters
        spec = WorkerSpec(
            f"w{number}",
            _POOL,
            batch_s=parameters.batch_s,
            frame_s=parameters.frame_s,
            stop_rule=parameters.stop_rule,
            max_batch_frames=parameters.max_batch_frames,
        )
        return WorkerActor(self._clock, self._broker, draw, spec, self._model, WorkerCallbacks())

    def _edge(self, site: str, cameras: tuple[str, ...]) -> EdgeActor:
        spec = EdgeSpec(
            site,
            _POOL,
            cameras,
            uplink_kbps=self._parameters.site_kbps.get(site) or UNLIMITED_KBPS,
            priorities=self._parameters.priorities,
            load_shedding=_NO_LOAD_SHEDDING,
            order=ORDERS[self._parameters.order],
        )
        callbacks = EdgeCallbacks(
            on_query=self._query,
            on_terminal=lambda _site, decision: self._room(decision.camera),
            on_sent=lambda sent: self._room(sent.camera),
        )
        return EdgeActor(self._clock, self._broker, spec, callbacks)
