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
from edge_nodes.clock import Clock, MonotonicClock, first_of
from edge_nodes.encoder import EncoderThread
from edge_nodes.first_prefix import FirstPrefix
from edge_nodes.frame_log import FrameLog
from edge_nodes.latent_deposit import LatentDeposit
from edge_nodes.observer import EdgeObserver
from edge_nodes.pool_problems import PoolProblems
from edge_nodes.site import Site
from edge_nodes.sources import FrameSource, make_source, redacted
from edge_nodes.telemetry import EdgeTelemetry
from edge_nodes.thinning_log import ThinningLog
from pipeline.ask_journal import AskJournal
from pipeline.bus.base import Bus, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.key_frame_policy import KeyFramePolicy
from pipeline.containment import Containment
from pipeline.logs import get_logger
from pipeline.metrics import Metrics
from pipeline.older_peers import listen_for_older_peers
from pipeline.protocol.client_budgets import ClientBudget
from pipeline.protocol.edge_session import EdgeSession, SiteSettings
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.recording.node_log import NodeLog, node_log
from pipeline.runtime import EXIT_NOT_DRAINED, Stop
from pipeline.settings import ClientBudgetSettings, EdgeSettings, LatentbusSettings
from pipeline.work_thread import WorkThread
from schemas import topics
from schemas.errors import BusError, ConfigError, ConnectionLostError, SourceError
from schemas.messages import Question

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
        journal_thread = WorkThread("journal")
        journal = await journal_thread.call(AskJournal.open_or_in_memory, _journal_path(edge))
        owned.push_async_callback(journal_thread.close, journal.close)
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
            journal_thread=journal_thread,
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
        journal: AskJournal,
        journal_thread: WorkThread,
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
        self._journal_thread = journal_thread
        self._clock = clock
        self._frame_log = frame_log
        boot = secrets.randbits(32)
        self._session = EdgeSession(
            EdgeProtocolSettings(),
            site_settings(edge),
            boot=boot,
            fingerprint=encoder.spec.fingerprint4,
            now_s=clock.now_s(),
        )
        self._pool_problems = PoolProblems(edge.pool, encoder.spec.fingerprint4.hex())
        self._observers = [*observers, ThinningLog(self._session.thinning, clock, self._pool_problems)]
        self._metrics = metrics
        self._connection = MqttBus(
            settings.broker,
            client_id=f"edge-{edge.site}",
            subscriptions=self._session.subscriptions(),
            will=self._session.will(),
            receive_maximum=ASK_WINDOW,
            clean_start=False,
            session_expiry_s=SESSION_EXPIRY_S,
        )
        self._bus: Bus = self._connection
        if log is not None:
            self._bus = log.tap(self._connection)
            log.watch(metrics)
        self._containment = Containment(_log, sleep=clock.sleep)
        self._captures: dict[str, CameraCapture] = {}
        self._problems = CameraProblems()

    async def run(self, stop: Stop) -> int:
        async with self._connection, asyncio.TaskGroup() as group:
            site = Site(
                self._session,
                bus=self._bus,
                encoder=self._encoder,
                first_prefix=self._first_prefix,
                key_frames=KeyFramePolicy() if self._edge.key_frames else None,
                journal=self._journal,
                journal_thread=self._journal_thread,
                clock=self._clock,
                pool_problems=self._pool_problems,
                observers=self._observers,
                wake_camera=lambda camera: self._captures[camera].wake(),
                containment=self._containment,
            )
            self._captures = self._make_captures(site)
            self._watch(site)
            background = {
                "receive": self._receive(site),
                "send": site.send(),
                "store": site.store(),
                "timers": site.timers(),
            }
            site.pump()
            if self._frame_log is not None:
                background["frame log"] = self._frame_log.run()
            tasks = {name: group.create_task(work, name=name) for name, work in background.items()}
            cameras = [
                group.create_task(capture.run(), name=f"capture[{name}]") for name, capture in self._captures.items()
            ]
            await self._start(stop)
            await first_of(stop.wait(), _all_done(cameras))
            stop.request()
            drained = await self._drain(site, cameras, stop.drain_timeout_s)
            for task in tasks.values():
                task.cancel()
        site.problems.summarise()
        return 0 if drained else EXIT_NOT_DRAINED

    async def _start(self, stop: Stop) -> None:
        """Wait for the connection and the first camera, or the request to stop."""
        await first_of(stop.wait(), self._connected())
        await first_of(stop.wait(), listen_for_older_peers(self._bus))
        await first_of(stop.wait(), look_for_other_sites(self._bus))
        await first_of(stop.wait(), self._first_camera())
        if stop.requested:
            return
        stop.set_ready()
        self._metrics.ready.set_function(lambda: float(self._pool_problems.fits))
        _log.info("ready", cameras=list(self._captures), boot=f"{self._session.boot:08x}")

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
        site.drain("the edge was stopped")
        if self._bus.statistics().connected:
            work_s = limit_s - FLUSH_RESERVE_S - self._clock.now_s()
            await first_of(site.finished(), self._clock.sleep(work_s))
        left = self._session.unfinished()
        await site.leave("the edge was stopped")
        flush_s = FLUSH_RESERVE_S / 2 if self._bus.statistics().connected else 0.0
        await first_of(site.idle(), self._clock.sleep(flush_s))
        unsent = self._session.uplink.unsent
        _log.info("drained", abandoned_queries=left, unsent_messages=unsent)
        return unsent == 0

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
        metrics, session = self._metrics, self._session
        metrics.watch_counters("edge_events", "Events of the edge session", "event", lambda: session.counters)
        metrics.watch_counters("asks", "Ad-hoc questions by what they met", "kind", lambda: session.ad_hoc.counters)
        for kind, documentation in _CLIENT_COUNTS.items():
            metrics.watch_counters(
                f"client_{kind}", documentation, "client", functools.partial(session.budgets.counts, kind)
            )
        metrics.watch_counters(
            "frames_rejected", "Frames that a worker can never answer", "reason", lambda: self._pool_problems.rejected
        )
        metrics.watch_gauge("pool_fits", "0 while the pool has another codec", lambda: float(self._pool_problems.fits))
        metrics.watch_counters("uplink_problems", "Publishes that went wrong", "kind", lambda: session.uplink.counters)
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
            lambda: session.thinning.skipped,
        )
        metrics.watch_counters(
            "thinning_events",
            "What the thinning of standing questions goes by",
            "kind",
            lambda: session.thinning.counters,
        )
        metrics.watch_gauges("edge_tables", "Entries of what the edge session keeps", "table", session.sizes)
        metrics.watch_gauge(
            "standing_share",
            "Share of the standing slots that is taken; under 1: overload",
            lambda: session.thinning.share,
        )
        metrics.watch_gauge("unfinished_queries", "Queries without an outcome", lambda: float(session.unfinished()))
        metrics.watch_gauge(
            "uplink_waiting_messages", "Messages that wait for the uplink", lambda: session.uplink.unsent
        )
        metrics.watch_gauge("connected", "1 while connected", lambda: float(self._bus.statistics().connected))

    def _source_problems(self) -> dict[tuple[str, str], float]:
        counts: dict[tuple[str, str], float] = dict(self._problems.counts)
        for camera, source in self._sources.items():
            counts.update({(camera, kind): count for kind, count in source.counters.items()})
        return counts


def site_settings(edge: EdgeSettings) -> SiteSettings:
    """What the session of a site needs of its settings."""
    return SiteSettings(
        site=edge.site,
        pool=edge.pool,
        asked_of={name: camera.questions for name, camera in edge.cameras.items()},
        questions={
            question_id: Question(
                site=edge.site,
                question_id=question_id,
                text=question.text,
                answer_type=question.answer_type,
                options=question.options,
                deadline_ms=question.deadline_ms,
                risk=question.risk,
                set_by="settings",
            )
            for question_id, question in edge.questions.items()
        },
        uplink_kbps=edge.uplink_kbps,
        priorities={name: camera.priority for name, camera in edge.cameras.items()},
        client_budget=_budget(edge.client_budget),
        client_budgets={name: _budget(budget) for name, budget in edge.client_budgets.items()},
    )


def _budget(settings: ClientBudgetSettings) -> ClientBudget:
    return ClientBudget(settings.asks_per_s, settings.burst_asks, settings.open_asks, settings.kbps)


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
