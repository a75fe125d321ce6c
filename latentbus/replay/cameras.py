"""Plays a log as virtual cameras: its frames are offered to live workers, whose requests it answers."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from analysis import version_one
from analysis.compare.matching import REPLAY_METADATA
from analysis.replay.plan import (
    REPLAY_CLIENT,
    PlanOptions,
    ReplayAsk,
    ReplayFrame,
    ReplayPlan,
    ReplayQuestion,
    SitePlan,
)
from analysis.replay.planner import QuestionHistory, make_plan
from analysis.replay.selection import TimeRange, TopicSelection
from analysis.traffic import Traffic, read_traffic
from latentbus.replay.in_flight import room
from latentbus.replay.options import CameraOptions, Deadlines, QuestionSource, ReplayOptions
from latentbus.replay.player import Player
from latentbus.replay.report import CameraReport
from latentbus.replay.virtual_site import VirtualSite, same_question, virtual_session
from pipeline.bus.base import Bus
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.spec import SPEC_FILE, TABLES_FILE, CodecSpec, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import get_logger
from pipeline.node.clock import MonotonicClock
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import Decision
from pipeline.protocol.ports import Sent
from pipeline.recording.bus_tap import TappedBus
from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import LogSet
from pipeline.recording.recorder import Recorder, RecorderOptions
from pipeline.recording.series import SeriesOptions
from schemas import topics, wire
from schemas.counting import counted
from schemas.errors import BitstreamError, BusError, ConfigError, FingerprintError
from schemas.messages import Question
from schemas.topics import Family

CONNECT_TIMEOUT_S: Final = 10.0
WORKER_PATIENCE_S: Final = 10.0
"""Wait for a first worker; after it the frames go out, as an edge's would."""
FRAME_SPAN_S: Final = 120.0
"""Before and after the part that is played the log is read for so long: a frame's messages lie around its open."""
_STATE = TopicSelection(
    [
        f"{root}/{family}/#"
        for root in (topics.ROOT, version_one.ROOT.rstrip("/"))
        for family in (Family.QUESTION, Family.ASK, Family.STATUS, Family.KEY)
    ]
)

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RecordedTraffic:
    """What virtual cameras take out of a log.

    Attributes:
        traffic: the log understood.
        history: its standing questions.
        codec: codec that it was recorded with.
        tables: its tables.
        fingerprint: first 4 bytes of the fingerprint that the frames are to carry.
        attachments: what explains the log that the replay writes.
    """

    traffic: Traffic
    history: QuestionHistory
    codec: CodecSpec
    tables: FrequencyTables
    fingerprint: bytes
    attachments: dict[str, tuple[str, bytes]]


def read_recorded(logs: LogSet, part: TimeRange, options: CameraOptions) -> RecordedTraffic:
    """Read what is needed to play a part of a log. Blocking.

    Args:
        logs: the log.
        part: what is to be played.
        options: which codecs.

    Raises:
        ArtifactError: a codec folder is missing or damaged.
        ConfigError: the workers' codec codes latents in another way.
        RecordingError: the log is damaged.
    """
    folder = options.codec or bundled_codec_dir()
    codec = load_codec_spec(folder)
    fingerprint = codec.fingerprint4
    if options.pool_codec is not None:
        pool = load_codec_spec(options.pool_codec)
        shape = (codec.latent_count, codec.latent_dim, codec.tables_sha256)
        if (pool.latent_count, pool.latent_dim, pool.tables_sha256) != shape:
            raise ConfigError(
                "--pool-codec",
                f"{options.pool_codec} codes latents in another way than {folder}: its symbols would mean something "
                "else. Only a codec with the same tables and another decoder can read the log",
            )
        fingerprint = pool.fingerprint4
    span_ns = round(FRAME_SPAN_S * 1e9)
    first_ns, last_ns = part.start_ns - span_ns, part.stop_ns + span_ns

    def wanted(message: LoggedMessage) -> bool:
        return message.time_ns >= first_ns or _STATE(message.topic)

    history = QuestionHistory()
    messages = (message for message in logs.messages(stop_ns=last_ns) if wanted(message))
    traffic = read_traffic(history.watch(messages))
    attachments = {SPEC_FILE: ("application/json", (folder / SPEC_FILE).read_bytes())}
    return RecordedTraffic(
        traffic, history, codec, FrequencyTables.load(folder / TABLES_FILE), fingerprint, attachments
    )


def plan_replay(
    recorded: RecordedTraffic, part: TimeRange, options: ReplayOptions, cameras: CameraOptions
) -> ReplayPlan:
    """Plan one pass, under names of its own.

    Raises:
        ConfigError: nothing of it can be played as it is asked for; the message names the fix.
    """
    plan_options = PlanOptions(
        tables=recorded.tables,
        fingerprint=recorded.codec.fingerprint4,
        time_range=part,
        selected=TopicSelection(options.include, options.exclude),
        cameras=options.cameras,
        pool=cameras.pool,
        site=cameras.site,
        base_latents=cameras.base_latents,
    )
    try:
        plan = make_plan(
            recorded.traffic,
            recorded.history,
            plan_options,
            draw_boot=lambda: secrets.randbits(32),
            query_suffix=f"-{secrets.token_hex(2)}",
        )
    except FingerprintError as error:
        raise ConfigError(
            "--codec",
            f"the log holds latents of codec {error.got.hex()}, this codec is {error.expected.hex()}: give the folder "
            "of the codec that the log was recorded with",
        ) from None
    except BitstreamError as error:
        raise ConfigError(
            "replay",
            f"no latent of the log decodes ({error}): is lb/v2/key/# in it? A redacted log has none left that could be "
            "replayed",
        ) from None
    if not plan.frames:
        raise ConfigError(
            "replay",
            "there is no frame with latents in this part of the log: is lb/v2/open/# in it, and do --topic and "
            "--exclude leave any? In this mode they choose by the topic of the open message",
        )
    return plan


class CameraReplay:
    """One pass over a log as virtual cameras.

    Args:
        plan: what to do.
        recorded: what was read.
        broker: where the workers are.
        options: deadlines, uplink, questions.
        player: says when.
        say: told what takes long.
        workers: workers to wait for, however long it takes; None waits for one, as long as an edge would not mind.

    Attributes:
        report: what came of it so far.
    """

    def __init__(
        self,
        plan: ReplayPlan,
        recorded: RecordedTraffic,
        broker: BrokerSettings,
        options: CameraOptions,
        player: Player,
        *,
        say: Callable[[str], None] = lambda _text: None,
        workers: int | None = None,
    ) -> None:
        self.report = CameraReport(planned=plan.frames, shortfalls=plan.shortfalls, record=options.record)
        self._plan = plan
        self._recorded = recorded
        self._broker = broker
        self._options = options
        self._player = player
        self._say = say
        self._workers = workers
        self._sites: dict[str, VirtualSite] = {}
        self._reworded: dict[tuple[str, str], Question] = {}

    async def run(self, part: TimeRange, sources: Sequence[Path]) -> None:
        """Connect, play, and see every query to its outcome.

        Args:
            part: what is played, for the log that is written.
            sources: the files that it comes from, for the same.

        Raises:
            ConfigError: the broker serves the same cameras, has other questions, or workers of another codec.
            ConnectionLostError: the broker cannot be reached.
            NotAuthorizedError: it refuses this identity.
            RecordingError: the log of the replay cannot be written.
        """
        async with AsyncExitStack() as stack:
            recorder = await self._recorder(stack, sources)
            for site_plan in self._plan.sites.values():
                session = virtual_session(
                    site_plan,
                    fingerprint=self._recorded.fingerprint,
                    uplink_kbps=self._uplink_kbps(),
                    clock=MonotonicClock(),
                )
                bus = MqttBus(
                    self._broker,
                    client_id=f"edge-{site_plan.name}-{secrets.token_hex(4)}",
                    subscriptions=session.subscriptions(),
                    will=session.will(),
                )
                await stack.enter_async_context(bus)
                await self._enter_site(site_plan, session, bus if recorder is None else TappedBus(bus, recorder))
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(site.run(), name=name) for name, site in self._sites.items()]
                try:
                    if await self._player.unless_ended(self._wait_workers()):
                        self._player.begin(part.start_ns)
                        await self._play()
                        await self._player.unless_ended(self._finished())
                finally:
                    await self._leave()
                    for task in running:
                        task.cancel()
        for site in self._sites.values():
            site.problems.summarise()
        if recorder is not None and recorder.failure is not None:
            raise recorder.failure
        self.report.gaps = [
            (item, item.latent.wanted)
            for item in self._plan.items
            if isinstance(item, ReplayFrame) and item.latent.wanted > item.latent.available
        ]

    async def _recorder(self, stack: AsyncExitStack, sources: Sequence[Path]) -> Recorder | None:
        if self._options.record is None:
            return None
        rate = self._player.rate
        replay = {
            "source": ", ".join(path.name for path in sources),
            "rate": "fast" if rate == math.inf else f"{rate:g}",
            "deadlines": str(self._options.deadlines),
            **self._plan.maps.metadata(),
        }
        series = SeriesOptions(metadata={REPLAY_METADATA: replay}, attachments=self._recorded.attachments)
        return await stack.enter_async_context(Recorder(self._options.record, RecorderOptions(series=series)))

    def _uplink_kbps(self) -> float | None:
        uplink_kbps = self._options.uplink_kbps
        if uplink_kbps is not None and self._player.rate != math.inf:
            uplink_kbps *= self._player.rate
        return uplink_kbps

    async def _enter_site(self, plan: SitePlan, session: EdgeSession, bus: Bus) -> None:
        site = VirtualSite(plan, session, bus, MonotonicClock(), ended=self._ended, sent=self._sent)
        await bus.wait_connected(CONNECT_TIMEOUT_S)
        if not await site.read_retained():
            self._say(
                f"[yellow]this identity may not see which edges are online: make sure that nobody else serves "
                f"{', '.join(site.plan.cameras)}[/]"
            )
        self._check_cameras(site)
        self._check_questions(site)
        self._sites[plan.name] = site

    def _check_cameras(self, site: VirtualSite) -> None:
        """Two edges with one camera would tell each other's workers that the frames are gone."""
        for (kind, name), status in site.online.items():
            both = sorted(set(status.cameras) & set(site.plan.cameras))
            if kind == "edge" and name not in self._sites and both:
                raise ConfigError(
                    "--remap-camera",
                    f"edge {name} is online on this broker and serves camera {both[0]}: replay it under another name "
                    f"with --remap-camera {both[0]}={both[0]}-replay, or use another broker (--local-workers 1 starts "
                    f"one). If that edge is long gone, delete its retained {topics.status_topic('edge', name)}",
                )

    def _check_questions(self, site: VirtualSite) -> None:
        for item in self._plan.items:
            if not isinstance(item, ReplayQuestion) or item.site != site.name:
                continue
            retained = site.retained(item.question.question_id)
            if retained is None:
                continue
            if same_question(retained, item.question):
                # Its risk is part of what frames ask, and the operator's.
                if retained.risk != item.question.risk:
                    self._reworded[site.name, item.question.question_id] = retained
                continue
            if self._options.questions is None:
                raise ConfigError(
                    "--questions",
                    f"question {item.question.question_id} is {retained.text!r} on this broker and "
                    f"{item.question.text!r} in the log: choose --questions log or --questions broker",
                )
            if self._options.questions is QuestionSource.BROKER:
                self._reworded[site.name, item.question.question_id] = retained

    async def _wait_workers(self) -> None:
        """Wait for workers that can read these latents; not for ever, an edge does not either.

        Raises:
            ConfigError: there are workers, and none of them has this codec.
        """
        site = next(iter(self._sites.values()))
        wanted = self._recorded.fingerprint.hex()

        count = self._workers or 1
        if site.pool_fingerprints().count(wanted) < count:
            self._say(f"waiting for {counted(count, 'worker')} of pool {site.plan.pool}")
        try:
            async with asyncio.timeout(WORKER_PATIENCE_S if self._workers is None else None):
                await site.until(lambda: site.pool_fingerprints().count(wanted) >= count)
        except TimeoutError:
            others = sorted(set(site.pool_fingerprints()) - {wanted})
            if others:
                raise ConfigError(
                    "--pool-codec",
                    f"the workers of pool {site.plan.pool} have codec {others[0]}, the frames carry {wanted}: give the "
                    "folder of their codec if it has the same tables, or start workers with the recorded codec",
                ) from None
            self._say(f"[yellow]no worker of pool {site.plan.pool} is online; frames are offered all the same[/]")

    async def _play(self) -> None:
        for item in self._plan.items:
            due_s = await self._player.turn(item.time_ns)
            if due_s is None:
                return
            site = self._sites[item.site]
            match item:
                case ReplayFrame():
                    await self._offer(site, item, due_s)
                case ReplayAsk():
                    await self._ask(site, item)
                case ReplayQuestion() if (item.site, item.question.question_id) not in self._reworded:
                    await self._player.unless_ended(site.publish_question(item.question))

    async def _offer(self, site: VirtualSite, frame: ReplayFrame, due_s: float) -> None:
        rate = self._player.rate
        speed = 1.0 if rate == math.inf or self._options.deadlines is Deadlines.RECORDED else rate
        taken_s = due_s
        if rate == math.inf or not self._options.keep_rate:
            bound = room(
                len(frame.queries),
                speed=speed,
                workers=len(site.pool_fingerprints()),
                sites=len(self._sites),
                cameras=len(site.plan.cameras),
            )
            if not await self._player.unless_ended(site.room(frame.camera, bound)):
                return
            taken_s = time.monotonic()
        self.report.hurried = self.report.hurried or speed > 1.0
        self.report.late_s = max(self.report.late_s, time.monotonic() - due_s)
        self.report.frames += 1
        site.offer(frame, taken_s, speed, self._reworded)
        await self._player.unless_ended(site.left(frame.camera))

    async def _ask(self, site: VirtualSite, item: ReplayAsk) -> None:
        """Workers remember the text of an ad-hoc question from its ask; without it they request it of the edge."""
        try:
            await site.bus.publish(topics.ask_topic(item.camera, REPLAY_CLIENT), wire.encode(item.ask), qos=1)
        except BusError as error:
            site.problems.report("ask", f"an ad-hoc question was not published, workers will ask for it: {error}")

    async def _finished(self) -> None:
        await asyncio.gather(*(site.finished() for site in self._sites.values()))

    async def _leave(self) -> None:
        """Say how everything ended, as far as the broker still listens."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.gather(*(site.leave("the replay was stopped") for site in self._sites.values()))
        except TimeoutError:
            _log.warning("the last words of the virtual sites did not reach the broker")

    def _ended(self, decision: Decision) -> None:
        self.report.outcomes[decision.outcome] += 1

    def _sent(self, sent: Sent) -> None:
        self.report.wire_bytes += sent.wire_bytes
        self.report.latents_sent[sent.label] += sent.latent_bytes
