"""The edge process: cameras, encoder, session, uplink and connection of one site.

::

    source thread -> capture[camera] -> encoder thread -> session -> uplink -> bus
                                                           ^   ^                |
                                            timers --------+   +--- receive <---+

Everything but decoding, encoding and the disk runs on one event loop, so the session needs no lock. Named tasks:
``receive``, ``capture[...]``, ``uplink``, ``timers``, ``heartbeat``, ``questions``, ``frame log``.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog

from edge_nodes.camera_problems import CameraProblems
from edge_nodes.capture import CameraCapture
from edge_nodes.encoder import EncoderThread
from edge_nodes.first_prefix import FirstPrefix
from edge_nodes.frame_log import FrameLog
from edge_nodes.journal import JournalThread
from edge_nodes.latent_deposit import LatentDeposit
from edge_nodes.observer import EdgeObserver
from edge_nodes.pool_problems import PoolProblems
from edge_nodes.site import Site
from edge_nodes.sources import FrameSource, make_source, redacted
from edge_nodes.telemetry import EdgeTelemetry
from edge_nodes.thinning_log import ThinningLog
from edge_nodes.uplink import Sent, Uplink
from pipeline.bus.base import Bus, Subscription, Will
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.config.logs import get_logger
from pipeline.config.settings import EdgeSettings, LatentbusSettings
from pipeline.node.clock import Clock, MonotonicClock
from pipeline.node.containment import Containment
from pipeline.node.metrics import Metrics
from pipeline.node.node_log import NodeLog, node_log
from pipeline.node.older_peers import listen_for_older_peers
from pipeline.node.runtime import EXIT_NOT_DRAINED, Stop
from pipeline.node.tasks import first_of
from pipeline.protocol.thinning import Thinning
from schemas import topics, wire
from schemas.errors import ArtifactError, BusError, ConfigError, ConnectionLostError, SourceError
from schemas.messages import Status

_log = get_logger(__name__)

RECEIVE_BATCH: Final = 64
"""Messages handled before the loop may turn to something else: at about 0.1 ms each, far under a stall of 50 ms."""
ASK_WINDOW: Final = 256
"""Ad-hoc questions that the broker may deliver before one is on disk."""
SESSION_EXPIRY_S: Final = 300
"""How long the broker keeps ad-hoc questions for an edge whose link is down. All else is QoS 0 and is not kept."""
CONNECT_LOG_S: Final = 10.0
_CLIENT_COUNTS: Final = {
    "wire_bytes": "Bytes on the uplink that a client caused: acknowledgements, refusals, replies",
    "asks_refused": "Ad-hoc questions of a client beyond its budget",
    "silent": "What a client was not told, because its budget was spent",
}
FLUSH_RESERVE_S: Final = 3.0
"""Of the drain time, for the outcomes of what did not finish."""


async def run_edge(settings: LatentbusSettings, stop: Stop, *, observers: Sequence[EdgeObserver] = ()) -> int:
    """Run the edge of a site until it is asked to stop, or all its cameras have ended.

    Args:
        settings: broker and edge sections are read.
        stop: set ready once the edge is connected and has a camera.
        observers: who watches, beside the metrics and the frame log of the settings.

    Returns:
        Exit status: 0, or EXIT_NOT_DRAINED when outcomes could not be told.

    Raises:
        ConfigError: there is no edge section, or a file or port of it cannot be used.
        ArtifactError: the codec is missing or damaged.
        SourceError: a source of no known kind, or not one camera can be opened.
        NotAuthorizedError: the broker refuses this edge.
    """
    if settings.edge is None:
        raise ConfigError("edge", "this process needs an edge section")
    edge = settings.edge
    structlog.contextvars.bind_contextvars(site=edge.site)
    clock = MonotonicClock()
    sources = {name: make_source(name, camera) for name, camera in edge.cameras.items()}
    async with AsyncExitStack() as owned:
        codec_dir = edge.codec or bundled_codec_dir()
        encoder = await EncoderThread.load(codec_dir, threads=edge.threads)
        owned.push_async_callback(encoder.close)
        unopened: Path | None = None
        try:
            journal = await JournalThread.open(_journal_path(edge))
        except ArtifactError as error:
            # A full or read-only disk must not keep a site dark; what it costs is said.
            _log.error("ad-hoc questions are kept in memory until their file can be opened", problem=str(error))
            journal, unopened = await JournalThread.open(None), _journal_path(edge)
        owned.push_async_callback(journal.close)
        frame_log = None
        if edge.frame_log is not None:
            frame_log = FrameLog(edge.frame_log, clock)
            owned.push_async_callback(frame_log.close)
        log, watchers = None, list(observers)
        if edge.recording is not None:
            shown = settings.model_copy(update={"edge": _without_credentials(edge)})
            log = await owned.enter_async_context(
                node_log(
                    edge.recording, shown, where="edge.recording.file", name=f"edge/{edge.site}", codec_dir=codec_dir
                )
            )
            if edge.recording.full_latents:
                watchers.append(LatentDeposit(log))
        metrics = Metrics()
        node = _Node(
            settings,
            edge,
            sources=sources,
            encoder=encoder,
            first_prefix=FirstPrefix(edge.first_prefix, codec_dir, encoder.spec, edge.uplink_kbps),
            journal=journal,
            unopened_journal=unopened,
            clock=clock,
            frame_log=frame_log,
            log=log,
            observers=[*watchers, EdgeTelemetry(metrics), *([frame_log] if frame_log else [])],
            metrics=metrics,
        )
        owned.enter_context(metrics.serve(edge.metrics_port, edge.metrics_host))
        return await node.run(stop)


class _Node:
    def __init__(
        self,
        settings: LatentbusSettings,
        edge: EdgeSettings,
        *,
        sources: Mapping[str, FrameSource],
        encoder: EncoderThread,
        first_prefix: FirstPrefix,
        journal: JournalThread,
        unopened_journal: Path | None,
        clock: Clock,
        frame_log: FrameLog | None,
        log: NodeLog | None,
        observers: Sequence[EdgeObserver],
        metrics: Metrics,
    ) -> None:
        self._edge = edge
        self._sources = sources
        self._encoder = encoder
        self._first_prefix = first_prefix
        self._journal = journal
        self._journal_path = unopened_journal
        self._clock = clock
        self._frame_log = frame_log
        self._thinning = Thinning()
        self._pool_problems = PoolProblems(edge.pool, encoder.spec.fingerprint4.hex())
        self._observers = [*observers, ThinningLog(self._thinning, clock, self._pool_problems)]
        self._metrics = metrics
        self._boot = secrets.randbits(32)
        offline = Status(kind="edge", id=edge.site, boot=self._boot, online=False, pool=edge.pool)
        self._connection = MqttBus(
            settings.broker,
            client_id=f"edge-{edge.site}",
            subscriptions=_subscriptions(edge),
            will=Will(topics.status_topic("edge", edge.site), wire.encode(offline)),
            receive_maximum=ASK_WINDOW,
            clean_start=False,
            session_expiry_s=SESSION_EXPIRY_S,
        )
        self._bus: Bus = self._connection
        if log is not None:
            self._bus = log.tap(self._connection)
            log.watch(metrics)
        self._containment = Containment(_log, sleep=clock.sleep)
        self._uplink = Uplink(self._bus, edge.uplink_kbps, clock, on_sent=self._sent, containment=self._containment)
        self._captures: dict[str, CameraCapture] = {}
        self._problems = CameraProblems()

    async def run(self, stop: Stop) -> int:
        async with self._connection, asyncio.TaskGroup() as group:
            site = Site(
                self._edge,
                boot=self._boot,
                encoder=self._encoder,
                first_prefix=self._first_prefix,
                journal=self._journal,
                uplink=self._uplink,
                clock=self._clock,
                thinning=self._thinning,
                pool_problems=self._pool_problems,
                observers=self._observers,
                group=group,
                wake_camera=lambda camera: self._captures[camera].wake(),
                containment=self._containment,
            )
            self._captures = self._make_captures(site)
            self._watch(site)
            await site.desk.restore()
            background = {
                "receive": self._receive(site),
                "uplink": self._uplink.run(),
                "timers": site.timers(),
                "heartbeat": self._containment.repeat("heartbeat", site.heartbeat),
                "questions": site.keep_questions(),
                "journal": self._containment.repeat("journal", lambda: site.desk.keep_journal(self._journal_path)),
            }
            if self._frame_log is not None:
                background["frame log"] = self._frame_log.run()
            tasks = {name: group.create_task(work, name=name) for name, work in background.items()}
            cameras = [
                group.create_task(capture.run(), name=f"capture[{name}]") for name, capture in self._captures.items()
            ]
            await self._start(stop, site)
            await first_of(stop.wait(), _all_done(cameras))
            stop.request()
            # Nothing new begins; what was put on the uplink leaves.
            tasks["questions"].cancel()
            drained = await self._drain(site, cameras, stop.drain_timeout_s)
            for task in tasks.values():
                task.cancel()
        site.problems.summarise()
        return 0 if drained else EXIT_NOT_DRAINED

    async def _start(self, stop: Stop, site: Site) -> None:
        """Wait for the connection and the first camera, or the request to stop."""
        await first_of(stop.wait(), self._connected())
        await first_of(stop.wait(), listen_for_older_peers(self._bus))
        await first_of(stop.wait(), look_for_other_sites(self._bus))
        await first_of(stop.wait(), self._first_camera())
        if stop.requested:
            return
        stop.set_ready()
        self._metrics.ready.set_function(lambda: float(site.pool_problems.fits))
        _log.info("ready", cameras=list(self._captures), boot=f"{self._boot:08x}")

    async def _first_camera(self) -> None:
        """Wait until a camera is open; one that blocks keeps nobody waiting.

        Raises:
            SourceError: not one opens.
        """
        opening = {capture.first_open for capture in self._captures.values()}
        problems: list[SourceError] = []
        while opening:
            done, opening = await asyncio.wait(opening, return_when=asyncio.FIRST_COMPLETED)
            results = [future.result() for future in done]
            if None in results:
                return
            problems += [result for result in results if result is not None]
        raise problems[0]

    async def _connected(self) -> None:
        while True:
            try:
                await self._bus.wait_connected(CONNECT_LOG_S)
            except ConnectionLostError as error:
                _log.warning("still not connected", problem=str(error))
            else:
                return

    async def _drain(self, site: Site, cameras: Sequence[asyncio.Task[None]], timeout_s: float) -> bool:
        """Take nothing new, let workers finish, decide the rest, tell everybody; false when that did not work out."""
        limit_s = self._clock.now_s() + timeout_s
        for camera in cameras:
            camera.cancel()
        await asyncio.gather(*cameras, return_exceptions=True)
        await site.desk.close("the edge was stopped")
        site.session.drain()
        if self._bus.statistics().connected:
            work_s = limit_s - FLUSH_RESERVE_S - self._clock.now_s()
            await first_of(site.finished(), self._clock.sleep(work_s))
        left = site.session.unfinished()
        await site.abandon("the edge was stopped")
        flush_s = FLUSH_RESERVE_S / 2 if self._bus.statistics().connected else 0.0
        await first_of(self._uplink.idle(), self._clock.sleep(flush_s))
        _log.info("drained", abandoned_queries=left, unsent_messages=self._uplink.unsent)
        return self._uplink.unsent == 0

    async def _receive(self, site: Site) -> None:
        while True:
            for event in await self._bus.receive_batch(RECEIVE_BATCH):
                site.receive(event)
            # A full buffer must not keep the other tasks from their turn.
            await asyncio.sleep(0)

    def _make_captures(self, site: Site) -> dict[str, CameraCapture]:
        count = len(self._sources)
        return {
            name: CameraCapture(
                name,
                source,
                interval_s=self._edge.cameras[name].interval_s,
                # Spread over the interval: cameras that fire together would queue for the uplink together.
                phase_s=self._edge.cameras[name].interval_s * index / count,
                taker=site,
                clock=self._clock,
                problems=self._problems,
                containment=self._containment,
            )
            for index, (name, source) in enumerate(self._sources.items())
        }

    def _watch(self, site: Site) -> None:
        metrics = self._metrics
        metrics.watch_counters("edge_events", "Events of the edge session", "event", lambda: site.session.counters)
        metrics.watch_counters("asks", "Ad-hoc questions by what they met", "kind", lambda: site.desk.counters)
        for kind, documentation in _CLIENT_COUNTS.items():
            metrics.watch_counters(
                f"client_{kind}", documentation, "client", functools.partial(site.budgets.counts, kind)
            )
        metrics.watch_counters(
            "frames_rejected", "Frames that a worker can never answer", "reason", lambda: site.pool_problems.rejected
        )
        metrics.watch_gauge("pool_fits", "0 while the pool has another codec", lambda: float(site.pool_problems.fits))
        metrics.watch_counters("uplink_problems", "Publishes that went wrong", "kind", lambda: self._uplink.counters)
        metrics.watch_counters("messages_dropped", "Bad messages by kind", "kind", lambda: site.problems.counts)
        metrics.watch_counters(
            "source_problems", "What went wrong at a camera, by kind", ("camera", "kind"), self._source_problems
        )
        metrics.watch_counters(
            "edge_contained",
            "Bugs of Latentbus that ended one message or frame",
            "kind",
            lambda: self._containment.counts,
        )
        metrics.watch_counters(
            "captures_missed",
            "Slots of a camera that passed without a frame",
            "camera",
            lambda: {name: float(capture.missed) for name, capture in self._captures.items()},
        )
        metrics.watch_counters(
            "standing_slots_left_out",
            "Slots without standing questions, because the pool is overloaded",
            "camera",
            lambda: self._thinning.skipped,
        )
        metrics.watch_counters(
            "thinning_events",
            "What the thinning of standing questions goes by",
            "kind",
            lambda: self._thinning.counters,
        )
        metrics.watch_gauges("edge_tables", "Entries of what the edge session keeps", "table", site.session.sizes)
        metrics.watch_gauge(
            "standing_share",
            "Share of the standing slots that is taken; under 1: overload",
            lambda: self._thinning.share,
        )
        metrics.watch_gauge(
            "unfinished_queries", "Queries without an outcome", lambda: float(site.session.unfinished())
        )
        metrics.watch_gauge("uplink_waiting_messages", "Messages that wait for the uplink", lambda: self._uplink.unsent)
        metrics.watch_gauge("connected", "1 while connected", lambda: float(self._bus.statistics().connected))

    def _source_problems(self) -> dict[tuple[str, str], float]:
        counts: dict[tuple[str, str], float] = dict(self._problems.counts)
        for camera, source in self._sources.items():
            counts.update({(camera, kind): count for kind, count in source.counters.items()})
        return counts

    def _sent(self, sent: Sent) -> None:
        for observer in self._observers:
            observer.message_sent(sent)


def _subscriptions(edge: EdgeSettings) -> list[Subscription]:
    """QoS 0 wherever a loss costs one repeat: a PUBACK would cost the uplink 78 bytes."""
    return [
        *(Subscription(topics.control_topic(camera)) for camera in edge.cameras),
        *(Subscription(topics.answer_topic(camera)) for camera in edge.cameras),
        *(Subscription(topics.ask_filter(camera), qos=1) for camera in edge.cameras),
        # At QoS 1, so that a deletion reaches an edge whose link is down for a while; own words come back as well,
        # which tells the order of the broker.
        Subscription(topics.question_filter(edge.site), qos=1),
        Subscription(topics.family_filter(topics.Family.STATUS).replace("/+/+", "/worker/+")),
        Subscription(topics.status_topic("edge", edge.site)),
    ]


def _without_credentials(edge: EdgeSettings) -> EdgeSettings:
    cameras = {
        name: camera.model_copy(update={"source": redacted(camera.source)}) for name, camera in edge.cameras.items()
    }
    return edge.model_copy(update={"cameras": cameras})


def _journal_path(edge: EdgeSettings) -> Path | None:
    return None if edge.state_dir is None else edge.state_dir / f"asks-{edge.site}.sqlite3"


async def look_for_other_sites(bus: Bus) -> None:
    """Read the retained statuses of all edges once: names of cameras are unique in a fleet.

    A broker with roles refuses it; there the register keeps the names apart.

    Args:
        bus: connected; what comes is received by whoever reads it.
    """
    edges = topics.family_filter(topics.Family.STATUS).replace("/+/+", "/edge/+")
    try:
        await bus.subscribe(Subscription(edges))
        # Each later status of each other site would cost the downlink some 400 bytes a minute.
        await bus.unsubscribe(edges)
    except BusError as error:
        _log.debug("cameras of other sites are not looked at", problem=str(error))


async def _all_done(futures: Sequence[asyncio.Future[Any]]) -> None:
    await asyncio.wait(futures)
