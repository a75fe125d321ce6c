"""The edge process: cameras, encoder, session, uplink and connection of one site.

::

    source thread -> capture[camera] -> encoder thread -> session -> uplink -> bus
                                                           ^   ^                |
                                            timers --------+   +--- receive <---+

Everything but decoding, encoding and the disk runs on one event loop, so the session needs no lock. Named tasks:
``receive``, ``capture[...]``, ``uplink``, ``timers``, ``clock``, ``spending``, ``frame log``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from edge_nodes.asking import check_reload
from edge_nodes.camera_problems import CameraProblems
from edge_nodes.capture import CameraCapture, FrameTaker
from edge_nodes.capture_policy import CapturePolicy
from edge_nodes.change_gate import gate_settings, make_change_gate
from edge_nodes.encoder import EncoderThread
from edge_nodes.event_file import EventFile
from edge_nodes.first_prefix import FirstPrefix
from edge_nodes.frame_file import FrameFile
from edge_nodes.frame_log import FrameLog
from edge_nodes.frame_ring import RingKeeper
from edge_nodes.health import camera_signs, edge_health
from edge_nodes.load_shedding_log import LoadSheddingLog
from edge_nodes.machine_clock import MachineClock
from edge_nodes.observer import EdgeObserver
from edge_nodes.once import OncePolicy, OnceRun, OnceTaker
from edge_nodes.pool_problems import PoolProblems
from edge_nodes.session_settings import site_settings, without_credentials
from edge_nodes.site import Site
from edge_nodes.sources import FrameSource, make_source
from edge_nodes.sources.view import viewed
from edge_nodes.telemetry import EdgeTelemetry, watch_cameras, watch_encoder, watch_site
from edge_nodes.uplink_spending import SpendingFile, UplinkSpending, spending_file_of
from pipeline.bus.base import Bus, ConnectionChange, Inbound, Subscription
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.key_frame_policy import KeyFramePolicy
from pipeline.codec.spec import FitMode
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.logs import get_logger
from pipeline.config.settings import LatentbusSettings
from pipeline.node.ask_journal import AskJournal
from pipeline.node.clock import Clock, MonotonicClock, wall_clock
from pipeline.node.connection import node_bus
from pipeline.node.containment import Containment
from pipeline.node.metrics import Metrics
from pipeline.node.node import Node, Work
from pipeline.node.process_health import Belongings, ProcessHealth, ProcessProbe, belongings_of
from pipeline.node.reload import keep_reloading
from pipeline.node.runtime import Stop, software_version
from pipeline.node.service_manager import Health
from pipeline.node.tasks import first_of
from pipeline.node.work_thread import WorkThread
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.store_settings import StorePolicy
from schemas import topics
from schemas.errors import BusError, ConfigError, SourceError
from schemas.messages import Condition

if TYPE_CHECKING:
    from pipeline.node.node_log import NodeLog

_log = get_logger(__name__)

ASK_WINDOW: Final = 256
"""Ad-hoc questions that the broker may deliver before one is on disk."""
SESSION_EXPIRY_S: Final = 300
"""How long the broker keeps ad-hoc questions for an edge whose link is down. All else is QoS 0 and is not kept."""
FLUSH_RESERVE_S: Final = 3.0
"""Of the drain time, for the outcomes of what did not finish."""


async def run_edge(
    settings: LatentbusSettings,
    stop: Stop,
    *,
    observers: Sequence[EdgeObserver] = (),
    once_limit_s: float | None = None,
    reload: Callable[[], EdgeSettings] | None = None,
) -> int:
    """Run the edge of a site until it is asked to stop, or all its cameras have ended.

    Args:
        settings: broker and edge sections are read.
        stop: set ready once the edge is connected and has a camera.
        observers: who watches, beside the metrics and the frame log of the settings.
        once_limit_s: ask about one frame of each camera, and end when all is answered, or after so long.
        reload: reads its section of the settings again, when SIGHUP comes.

    Returns:
        Exit status: 0, EXIT_NOT_DRAINED when outcomes could not be told, or EXIT_INCOMPLETE
        (:mod:`edge_nodes.once`).

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
        encoder = await EncoderThread.load(codec_dir, precision=edge.precision, threads=edge.threads)
        owned.push_async_callback(encoder.close)
        journal_thread = WorkThread("journal")
        journal = await journal_thread.call(AskJournal.open_or_in_memory, _journal_path(edge))
        owned.push_async_callback(journal_thread.close, journal.close)
        events = await _open_events(owned, edge, encoder.spec.fingerprint4)
        frame_thread = WorkThread("frames")
        frame_file = None
        if edge.store.policy is not StorePolicy.OFF:
            frame_file = await frame_thread.call(
                FrameFile.open_or_in_memory,
                None if edge.state_dir is None else edge.state_dir / f"frames-{edge.site}.sqlite3",
                encoder.tables,
                MachineClock.of_this_machine(),
                max_bytes=edge.store.max_bytes,
            )
        owned.push_async_callback(frame_thread.close, (lambda: None) if frame_file is None else frame_file.close)
        frame_log = None
        if edge.frame_log is not None:
            frame_log = FrameLog(edge.frame_log, clock)
            owned.push_async_callback(frame_log.close)
        metrics = Metrics()
        metrics.build_info("edge", software_version(), encoder.spec.fingerprint4.hex())
        log, latent_stores = await _begin_log(owned, settings, edge, codec_dir, metrics)
        spending_file = spending_file_of(edge)
        session = EdgeSession(
            EdgeProtocolSettings(),
            replace(site_settings(edge), traced=settings.broker.traceparent),
            boot=secrets.randbits(32),
            fingerprint=encoder.spec.fingerprint4,
            now_s=clock.now_s(),
            spending=None if spending_file is None else await journal_thread.call(spending_file.read),
            gate=await journal_thread.call(make_change_gate, edge, codec_dir, encoder.spec),
        )
        session.wall_clock(*wall_clock())
        bus = node_bus(
            settings.broker,
            "edge",
            edge.site,
            subscriptions=session.subscriptions(),
            will=session.will(),
            log=log,
            receive_maximum=ASK_WINDOW,
            session_expiry_s=SESSION_EXPIRY_S,
            topic_aliases=True,
        )
        owned.enter_context(metrics.serve(edge.metrics_port, edge.metrics_host))
        node = EdgeNode(
            edge,
            session,
            await owned.enter_async_context(bus),
            sources={
                name: viewed(name, source, edge.cameras[name], encoder.spec.fit.mode)
                for name, source in sources.items()
            },
            encoder=encoder,
            first_prefix=FirstPrefix(
                edge.first_prefix,
                codec_dir,
                encoder.spec,
                edge.uplink_kbps,
                whole=cameras_of_another_fit(edge, encoder.spec.fit.mode),
            ),
            journal=journal,
            journal_thread=journal_thread,
            events=events,
            spending_file=spending_file,
            frame_file=frame_file,
            frame_thread=frame_thread,
            clock=clock,
            frame_log=frame_log,
            observers=[*observers, *latent_stores, *([frame_log] if frame_log else [])],
            metrics=metrics,
            belongings=belongings_of(settings.broker, edge.state_dir, edge.recording),
            once_limit_s=once_limit_s,
            reload=reload,
        )
        return await node.run(stop)


async def _open_events(
    owned: AsyncExitStack, edge: EdgeSettings, fingerprint: bytes
) -> tuple[EventFile, WorkThread] | None:
    """The file of events, where a camera keeps any."""
    if not any(camera.ring.before_s or camera.ring.after_s for camera in edge.cameras.values()):
        return None
    path = None if edge.state_dir is None else edge.state_dir / f"events-{edge.site}.sqlite3"
    megabytes = edge.ring.memory_mb if path is None else edge.ring.disk_mb
    thread = WorkThread("events")
    file = await thread.call(EventFile.open_or_in_memory, path, fingerprint, max_bytes=round(megabytes * 1_000_000))
    owned.push_async_callback(thread.close, file.close)
    return file, thread


async def _begin_log(
    owned: AsyncExitStack, settings: LatentbusSettings, edge: EdgeSettings, codec_dir: Path, metrics: Metrics
) -> tuple[NodeLog | None, list[EdgeObserver]]:
    """The edge's own log, where its settings want one, and who keeps whole latents in it."""
    if edge.recording is None:
        return None, []
    # Logs need the extra `recording`, which most edges do without.
    from edge_nodes.latent_store import LatentStore
    from pipeline.node.node_log import node_log

    shown = settings.model_copy(update={"edge": without_credentials(edge)})
    log = await owned.enter_async_context(
        node_log(edge.recording, shown, kind="edge", name=edge.site, codec_dir=codec_dir, metrics=metrics)
    )
    return log, [LatentStore(log)] if edge.recording.full_latents else []


class EdgeNode(Node):
    """The edge of a site with its parts in place.

    Args:
        edge: its section of the settings.
        session: its protocol machine.
        bus: entered, with the subscriptions of the session.
        sources: cameras by name.
        encoder: frames to latents.
        first_prefix: what the first message of each frame carries.
        journal: ad-hoc questions on disk.
        journal_thread: where the disk is waited for.
        events: events on disk, and the thread for them; None where no camera keeps any.
        spending_file: what was spent of the uplink's budget; None where it has none.
        frame_file: frames that are kept while there is no link, None for none.
        frame_thread: where their disk is waited for.
        clock: monotonic time.
        frame_log: log of the frames, None for none.
        observers: who watches, beside the metrics.
        metrics: where it counts.
        belongings: what it keeps on disk.
        once_limit_s: see :func:`run_edge`.
        reload: see :func:`run_edge`.
    """

    def __init__(
        self,
        edge: EdgeSettings,
        session: EdgeSession,
        bus: Bus,
        *,
        sources: Mapping[str, FrameSource],
        encoder: EncoderThread,
        first_prefix: FirstPrefix,
        journal: AskJournal,
        journal_thread: WorkThread,
        events: tuple[EventFile, WorkThread] | None,
        spending_file: SpendingFile | None,
        frame_file: FrameFile | None,
        frame_thread: WorkThread,
        clock: Clock,
        frame_log: FrameLog | None,
        observers: Sequence[EdgeObserver],
        metrics: Metrics,
        belongings: Belongings,
        once_limit_s: float | None = None,
        reload: Callable[[], EdgeSettings] | None = None,
    ) -> None:
        super().__init__(bus, metrics, _log, clock=clock, containment=Containment(_log, sleep=clock.sleep))
        self._edge = edge
        self._session = session
        self._sources = sources
        self._encoder = encoder
        self._first_prefix = first_prefix
        self._journal = journal
        self._journal_thread = journal_thread
        self._events = events
        self._spending_file = spending_file
        self._spending: UplinkSpending | None = None
        self._frame_file = frame_file
        self._frame_thread = frame_thread
        self._frame_log = frame_log
        self._pool_problems = PoolProblems(edge.pool, encoder.spec.fingerprint4.hex())
        self._once = None if once_limit_s is None else OnceRun(session)
        self._once_limit_s = once_limit_s or 0.0
        once: list[EdgeObserver] = [] if self._once is None else [self._once]
        self._reload = reload
        self._telemetry = EdgeTelemetry(metrics)
        self._belongings = belongings
        self._observers = [
            *observers,
            self._telemetry,
            LoadSheddingLog(session.load_shedding, clock, self._pool_problems),
            *once,
        ]
        self._captures: dict[str, CameraCapture] = {}
        self._camera_problems = CameraProblems()

    async def run(self, stop: Stop) -> int:
        """See :class:`~pipeline.node.node.Node`."""
        self._stop = stop
        status = await super().run(stop)
        return status if self._once is None else self._once.status() or status

    async def _begin(self, group: asyncio.TaskGroup) -> Work:  # noqa: ARG002 - one interface for all nodes
        pictures_of = [name for name, camera in self._edge.cameras.items() if camera.ring.pictures_for]
        base_latents = self._encoder.spec.base_latents
        self._ring = RingKeeper(self._session, base_latents, self._clock, pictures_of=pictures_of)
        self._site = site = Site(
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
            frame_file=self._frame_file,
            frame_thread=self._frame_thread,
            ring=self._ring,
            events=self._events,
        )
        if self._spending_file is not None:
            self._spending = UplinkSpending(
                self._session, self._spending_file, self._journal_thread, self._clock, site.pump
            )
            site.store_spending = self._spending.store
        site.first_answer = self._telemetry.first_answer
        self._problems = site.problems
        self._captures = self._make_captures(site)
        watch_site(self._metrics, self._session, self._pool_problems)
        watch_encoder(self._metrics, self._encoder)
        watch_cameras(self._metrics, self._captures, self._sources, self._camera_problems)
        self._watch_session(self._session)
        site.asking_changed = self._set_intervals
        self._set_intervals()

        def tell(conditions: Sequence[Condition]) -> None:
            self._session.health(conditions)
            site.pump()

        health = ProcessHealth(
            ProcessProbe("site", self._edge.site, self._belongings, self._metrics),
            self._metrics,
            tell=tell,
            more=lambda: camera_signs(self._edge.site, self._captures),
        )
        site.pump()
        return {
            "time of day": partial(self._containment.repeat, "time of day", self._look_at_clock),
            **self._reload_work(),
            "send": site.send,
            "store": site.store,
            "events": site.keep_events,
            **({} if site.frame_disk is None else {"frame store": site.frame_disk.run}),
            "timers": site.timers,
            **self._watch_health(health),
            **({} if self._frame_log is None else {"frame log": self._frame_log.run}),
            **self._spending_work(),
            **({} if self._once is None else {"limit": self._limit}),
            **{f"capture[{name}]": capture.run for name, capture in self._captures.items()},
        }

    async def _look_at_clock(self) -> None:
        utc_s, uptime_s = wall_clock()
        self._session.wall_clock(utc_s, uptime_s)
        self._site.pump()
        await self._clock.sleep(self._session.asking.next_look_s(utc_s))

    def _set_intervals(self) -> None:
        for name, capture in self._captures.items():
            interval_s = self._session.interval_s(name)
            if interval_s is not None:
                capture.policy.set_interval(interval_s, self._clock.now_s())
                capture.wake()

    def _take_over(self, edge: EdgeSettings) -> None:
        """Go on with other settings.

        Raises:
            ConfigError: something has changed that needs a restart.
        """
        check_reload(self._edge, edge)
        self._edge = edge
        gate = self._session.gate
        limits = None if gate is None else gate_settings(edge, gate.settings.risk, self._encoder.spec)
        self._session.reconfigure(site_settings(edge), limits)
        self._site.pump()

    def _reload_work(self) -> Work:
        if self._reload is None:
            return {}
        return {"reload": partial(keep_reloading, self._stop, self._reload, self._take_over)}

    def _spending_work(self) -> Work:
        if self._spending is None:
            return {}
        look = partial(self._containment.repeat, "clock", self._spending.look_once)
        return {"clock": look, "spending": self._spending.write}

    async def _limit(self) -> None:
        await self._clock.sleep(self._once_limit_s)
        _log.warning("the time for one frame of each camera is over", limit_s=self._once_limit_s)
        self._stop.request()

    def drops(self) -> Mapping[str, float]:
        """See :class:`~pipeline.node.node.Node`."""
        uplink = {kind: count for kind, count in dict(self._session.uplink.counters).items() if "dropped" in kind}
        return {**super().drops(), **uplink}

    def queues(self) -> Mapping[str, float]:
        """See :class:`~pipeline.node.node.Node`."""
        frames = self._session.frames.waiting()
        return {**super().queues(), "uplink": self._session.uplink.unsent, "frames": frames}

    def queue_ages_s(self) -> Mapping[str, float]:
        """See :class:`~pipeline.node.node.Node`."""
        return {"frames": self._site.oldest_s()}

    def backlog(self) -> Mapping[str, float]:
        """See :class:`~pipeline.node.node.Node`."""
        return {self._edge.pool: self._session.frames.waiting()}

    def refinements(self) -> float:
        """See :class:`~pipeline.node.node.Node`."""
        return self._session.counters["refines"]

    def lease_expiries(self) -> Mapping[str, float]:
        """See :class:`~pipeline.node.node.Node`."""
        counters = self._session.counters
        return {"answer": counters["lease_over"], "accept": counters["open_unanswered"]}

    def _receive(self, events: Sequence[Inbound | ConnectionChange]) -> None:
        for event in events:
            self._site.receive(event)

    def _fits(self) -> bool:
        return self._pool_problems.fits

    def _health(self) -> Health:
        return edge_health(list(self._captures.values()), self._encoder, connected=self._bus.statistics().connected)

    async def _prepare(self) -> Mapping[str, Any]:
        await warn_of_other_sites(self._bus)
        await self._first_camera()
        boot = f"{self._session.boot:08x}"
        return {"cameras": list(self._captures), "encoder": self._encoder.precision, "boot": boot}

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

    async def _exhausted(self, tasks: Mapping[str, asyncio.Task[None]]) -> None:
        if self._once is not None:
            loops = {name: tasks[f"capture[{name}]"] for name in self._captures}
            await self._once.finished(self._site, self._captures, loops)
        else:
            await asyncio.wait(self._cameras(tasks))

    def _cameras(self, tasks: Mapping[str, asyncio.Task[None]]) -> list[asyncio.Task[None]]:
        return [tasks[f"capture[{name}]"] for name in self._captures]

    async def _drain(self, tasks: Mapping[str, asyncio.Task[None]], timeout_s: float) -> bool:
        """Take nothing new, let workers finish, decide the rest, tell everybody."""
        site, limit_s = self._site, self._clock.now_s() + timeout_s
        cameras = self._cameras(tasks)
        for camera in cameras:
            camera.cancel()
        await asyncio.gather(*cameras, return_exceptions=True)
        site.drain("the edge was stopped")
        if self._bus.statistics().connected:
            work_s = limit_s - FLUSH_RESERVE_S - self._clock.now_s()
            await first_of(site.finished(), self._clock.sleep(work_s))
        await self._ring.close()
        left = self._session.unfinished()
        if self._once is not None:
            self._once.abandoned(left)
        await site.leave("the edge was stopped")
        flush_s = FLUSH_RESERVE_S / 2 if self._bus.statistics().connected else 0.0
        await first_of(site.idle(), self._clock.sleep(flush_s))
        if self._spending is not None:
            await first_of(self._spending.flush(), self._clock.sleep(FLUSH_RESERVE_S / 2))
        unsent = self._session.uplink.unsent
        _log.info("drained", abandoned_queries=left, unsent_messages=unsent)
        return unsent == 0

    def _make_captures(self, site: Site) -> dict[str, CameraCapture]:
        policies, taker = self._policies(site)
        return {
            name: CameraCapture(
                name,
                source,
                policy=policies[name],
                taker=taker,
                clock=self._clock,
                problems=self._camera_problems,
                containment=self._containment,
            )
            for name, source in self._sources.items()
        }

    def _policies(self, site: Site) -> tuple[Mapping[str, CapturePolicy], FrameTaker]:
        if self._once is not None:
            self._once.policies = {name: OncePolicy(name, site) for name in self._sources}
            return self._once.policies, OnceTaker(site, self._once.policies)
        # Spread over the interval: cameras that fire together would queue for the uplink together.
        spread = 0.0 if self._edge.uplink_gather_ms else 1.0 / len(self._sources)
        cameras = [self._edge.cameras[name] for name in self._sources]
        policies = {
            name: CapturePolicy(
                name,
                camera.interval_s,
                camera.interval_s * index * spread,
                site,
                ring_interval_s=camera.ring.interval_s,
            )
            for index, (name, camera) in enumerate(zip(self._sources, cameras, strict=True))
        }
        return policies, site


def cameras_of_another_fit(edge: EdgeSettings, mode: FitMode) -> list[str]:
    """Cameras whose frames are fitted in another way than those that the codec was calibrated with.

    Args:
        edge: section of the settings.
        mode: the codec's.
    """
    others = [name for name, camera in edge.cameras.items() if camera.fit not in (None, mode)]
    for name in others:
        fit = edge.cameras[name].fit
        words = "the codec was not calibrated for this fit: whole latents are sent"
        _log.warning(words, camera=name, fit=fit, calibrated=mode)
    return others


def _journal_path(edge: EdgeSettings) -> Path | None:
    return None if edge.state_dir is None else edge.state_dir / f"asks-{edge.site}.sqlite3"


async def warn_of_other_sites(bus: Bus) -> None:
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
