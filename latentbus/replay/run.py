"""Composes a replay: log, player, keyboard, progress, and one of the two ways to play."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import chain
from typing import Final

from rich.console import Console
from rich.markup import escape

from analysis.clocks import align
from analysis.redact.redaction import Redaction, redacted
from analysis.replay.plan import ReplayPlan
from analysis.replay.remap import CameraRemap
from analysis.replay.retained import cameras_without_keys, retained_key_frames
from analysis.replay.selection import TimeRange, TopicSelection, time_range
from latentbus.replay.cameras import CameraReplay, RecordedTraffic, plan_replay, read_recorded
from latentbus.replay.held import held_topics, retained_payloads
from latentbus.replay.keyboard import HELP, listening
from latentbus.replay.local import local_fleet
from latentbus.replay.options import CameraOptions, LocalOptions, ReplayOptions
from latentbus.replay.player import Player
from latentbus.replay.report import CameraReport, VerbatimReport
from latentbus.replay.verbatim import VerbatimReplay
from latentbus.replay.view import show_progress
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.runtime import Stop, first_latentbus_error
from pipeline.node.tasks import first_of
from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import LogSet, open_logs
from schemas.counting import counted
from schemas.errors import ConfigError

CONNECT_TIMEOUT_S: Final = 10.0
LOOP_PASS_S: Final = 1.0
"""A loop over a part that takes less time begins again no sooner."""
LOOP_MESSAGES_PER_S: Final = 1_000
"""And no sooner than this rate allows."""
_SHOWN_TOPICS: Final = 5


async def replay_verbatim(
    options: ReplayOptions, broker: BrokerSettings, stop: Stop, console: Console
) -> VerbatimReport:
    """Publish a log as it was recorded, after the key frames that the broker retained where the part begins.

    What the broker retains now stays, unless ``options.retained`` is set: messages that would replace it are left out.

    Raises:
        ConfigError: nothing of the log is selected.
        ConnectionLostError: the broker cannot be reached, or did not come back.
        RecordingError: the log cannot be read.
    """
    logs, part = await _open(options, console)
    remap = CameraRemap(options.cameras)
    selection = TopicSelection(options.include, options.exclude)
    with logs:
        if blind := cameras_without_keys(logs.topics(), selection):
            console.print(
                f"[yellow]key frames of {', '.join(blind)} are left out by --topic or --exclude: workers reject frames "
                "that were coded given them; lb/v2/key/# takes them in[/]"
            )
        retained = await asyncio.to_thread(retained_key_frames, logs, part.start_ns, selection)

        def selected() -> Iterator[LoggedMessage]:
            return logs.messages(start_ns=part.start_ns, stop_ns=part.stop_ns, topics=selection)

        await asyncio.to_thread(_check_selection, selected())
        held = await _held(chain(retained, selected()), options, broker, console)
        async with MqttBus(broker, client_id=f"lb-replay-{secrets.token_hex(4)}") as bus:
            await bus.wait_connected(CONNECT_TIMEOUT_S)
            player = Player(options.rate, paused=options.paused)
            replay = VerbatimReplay(bus, player, remap, held=held)

            def counts() -> str:
                refused = replay.count.refused.total()
                return f"{replay.count.published} published, {refused} refused"

            began_s = time.monotonic()
            async with _playing(player, part, options, stop, console, counts):
                while not player.ended:
                    pass_s, before = time.monotonic(), replay.count.published
                    with plain_errors():
                        # Each time round: the end of the part has left later ones on the broker.
                        await replay.retain(retained)
                        player.begin(part.start_ns)
                        await replay.play(selected())
                    if not options.loop:
                        break
                    await _until_next_pass(player, part, pass_s, replay.count.published - before)
            return VerbatimReport(replay.count, remap.not_understood, time.monotonic() - began_s)


async def replay_cameras(
    options: ReplayOptions,
    cameras: CameraOptions,
    broker: BrokerSettings | None,
    stop: Stop,
    console: Console,
    *,
    local: LocalOptions | None = None,
) -> CameraReport:
    """Play a log as virtual cameras; with ``loop`` again and again, each time under new names.

    Args:
        options: which part of which log, how fast.
        cameras: codec, uplink, deadlines.
        broker: where the workers are; not needed with ``local``.
        stop: ends it early.
        console: for progress.
        local: a private broker and workers.

    Returns:
        What came of the last pass.

    Raises:
        LatentbusError: see :class:`~latentbus.replay.cameras.CameraReplay` and
            :func:`~latentbus.replay.local.local_fleet`.
    """
    if options.loop and cameras.record is not None:
        raise ConfigError("--loop", "a log of a loop cannot be compared with its source: leave out --record")
    recorded, part = await _read_for_cameras(options, cameras, console)
    passes = _CameraPasses(recorded, part, options, cameras, stop, console)
    plan = passes.plan()  # what is wrong with it is said before anything is started
    if local is None:
        if broker is None:
            raise ConfigError("replay", "no broker was given")
        return await passes.play(broker)
    async with local_fleet(local, next(iter(plan.sites.values())).pool) as fleet:
        console.print(
            f"broker on {fleet.broker.host}:{fleet.broker.port}; starting {counted(local.workers or 0, 'worker')}"
        )
        playing = asyncio.ensure_future(passes.play(fleet.broker, workers=local.workers))
        await first_of(_finished(playing), fleet.ended())
        return playing.result()


async def _finished(playing: asyncio.Future[CameraReport]) -> None:
    """Wait for it; it is cancelled with this."""
    await playing


async def _read_for_cameras(
    options: ReplayOptions, cameras: CameraOptions, console: Console
) -> tuple[RecordedTraffic, TimeRange]:
    logs, part = await _open(options, console)
    with logs:
        if Redaction.LATENTS in redacted(logs.metadata()):
            raise ConfigError(
                str(options.logs[0]),
                "its latents were redacted, so there is nothing that cameras could send: replay the log that it is a "
                "copy of, or play this one with latentbus replay",
            )
        return await asyncio.to_thread(read_recorded, logs, part, cameras), part


class _CameraPasses:
    """Plays a part of a log as virtual cameras, once or again and again."""

    def __init__(
        self,
        recorded: RecordedTraffic,
        part: TimeRange,
        options: ReplayOptions,
        cameras: CameraOptions,
        stop: Stop,
        console: Console,
    ) -> None:
        self._recorded = recorded
        self._part = part
        self._options = options
        self._cameras = cameras
        self._stop = stop
        self._console = console
        self._replay: CameraReplay | None = None

    def plan(self) -> ReplayPlan:
        """What a pass does; each has new names.

        Raises:
            ConfigError: there is nothing to play.
        """
        return plan_replay(self._recorded, self._part, self._options, self._cameras)

    async def play(self, broker: BrokerSettings, *, workers: int | None = None) -> CameraReport:
        """Play until the log or the patience of the user is at its end; returns what came of the last pass.

        Args:
            broker: where the workers are.
            workers: see :class:`CameraReplay`.
        """
        options = self._options
        player = Player(options.rate, paused=options.paused)
        async with _playing(player, self._part, options, self._stop, self._console, self._counts):
            while True:
                plan = await asyncio.to_thread(self.plan)
                pass_s = time.monotonic()
                self._replay = replay = CameraReplay(
                    plan, self._recorded, broker, self._cameras, player, say=self._console.print, workers=workers
                )
                with plain_errors():
                    await replay.run(self._part, options.logs)
                if player.ended or not options.loop:
                    return replay.report
                await _until_next_pass(player, self._part, pass_s, replay.report.frames)

    def _counts(self) -> str:
        if self._replay is None:
            return ""
        report = self._replay.report
        ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.outcomes.items()))
        return f"{report.frames} of {report.planned} frames" + (f", {ended}" if ended else "")


def _check_selection(messages: Iterator[LoggedMessage]) -> None:
    if all(message.topic.startswith("$") for message in messages):
        raise ConfigError(
            "replay",
            "no message of this part of the log is selected: look at --topic, --exclude, --start, --duration and "
            "--until, and at the topics that latentbus inspect --json shows",
        )


async def _held(
    played: Iterable[LoggedMessage], options: ReplayOptions, broker: BrokerSettings, console: Console
) -> frozenset[str]:
    """Topics under which the broker retains something else than would be played, and that are therefore left out."""
    if options.retained:
        return frozenset()
    wanted = await asyncio.to_thread(retained_payloads, played, CameraRemap(options.cameras))
    held = await held_topics(broker, wanted)
    if held:
        named = ", ".join(sorted(held)[:_SHOWN_TOPICS]) + (", ..." if len(held) > _SHOWN_TOPICS else "")
        console.print(
            f"[yellow]the broker retains something else on {counted(len(held), 'topic')} of the log ({escape(named)}): "
            "it stays, and what would replace it is left out. --retained replaces it[/]"
        )
    return held


async def _until_next_pass(player: Player, part: TimeRange, began_s: float, published: int) -> None:
    """Wait so that a loop over a part of little or no length does not flood the broker."""
    if player.rate != math.inf and part.duration_s / player.rate >= LOOP_PASS_S:
        return
    due_s = began_s + max(LOOP_PASS_S, published / LOOP_MESSAGES_PER_S)
    await player.unless_ended(asyncio.sleep(due_s - time.monotonic()))


@contextmanager
def plain_errors() -> Iterator[None]:
    """An error of ours comes out of a task group as itself."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = first_latentbus_error(group)
        if error is None:
            raise
        raise error from group


async def _open(options: ReplayOptions, console: Console) -> tuple[LogSet, TimeRange]:
    logs = await asyncio.to_thread(open_logs, options.logs)
    try:
        if not logs.message_count:
            raise ConfigError(str(options.logs[0]), "the log holds no message")
        for reader in logs.readers:
            if not reader.complete:
                console.print(
                    f"[yellow]{escape(str(reader.path))} was not closed well: what is whole in it is replayed "
                    "(latentbus recover makes a good file of it)[/]"
                )
        for clock in await asyncio.to_thread(align, logs):
            console.print(f"[{'dim' if clock.shared else 'yellow'}]{escape(str(clock))}[/]")
        whole = TimeRange(logs.start_ns, logs.stop_ns + 1)
        part = time_range(whole, start=options.start, duration_s=options.duration_s, until=options.until)
    except BaseException:
        logs.close()
        raise
    return logs, part


@asynccontextmanager
async def _playing(
    player: Player,
    part: TimeRange,
    options: ReplayOptions,
    stop: Stop,
    console: Console,
    counts: Callable[[], str],
) -> AsyncIterator[None]:
    """Keyboard, progress, the wait before the first message, and the request to stop, around a play."""

    async def end_on_stop() -> None:
        await stop.wait()
        player.end()

    tasks = [asyncio.create_task(end_on_stop(), name="stop")]
    try:
        with listening(player.press) as keyboard:
            if keyboard:
                console.print(f"[dim]keys: {HELP}[/]")
            await player.unless_ended(asyncio.sleep(options.delay_s))
            tasks.append(asyncio.create_task(show_progress(console, player, part, counts), name="progress"))
            yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
