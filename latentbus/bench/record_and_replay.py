"""How fast ``latentbus record`` takes messages without a loss, and how fast ``latentbus replay`` gives them back."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker_config.launcher import LocalBroker
from latentbus.bench.options import BenchOptions
from latentbus.bench.publishers import TOPIC_ROOT, Offered, publish
from latentbus.fleet.launcher import Launcher
from latentbus.fleet.usage import cpu_s
from pipeline.config.broker_settings import BrokerSettings
from pipeline.recording.reader import LogReader

RECORDER: Final = "bench"
SETTLE_TIMEOUT_S: Final = 60.0
_STABLE_S: Final = 1.0
"""A log that did not grow for so long, four flushes of the recorder, holds all that came."""
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class RecordRun:
    """One run of the recorder.

    Attributes:
        offered_hz: messages a second that the publishers sent.
        recorded_hz: messages a second in the log, by the recorder's own times.
        sent: messages sent.
        lost: messages that are not in the log.
        repeated: messages that are in it more than once: QoS 1 allows it.
        recorder_busy: share of a processor core that the recorder used; None where the system does not tell.
        broker_busy: the same of the broker.
    """

    offered_hz: float
    recorded_hz: float
    sent: int
    lost: int
    repeated: int
    recorder_busy: float | None
    broker_busy: float | None

    def sentence(self) -> str:
        """The run in words."""
        busy = "" if self.recorder_busy is None else f"; recorder {self.recorder_busy:.0%} of a core"
        busy += "" if self.broker_busy is None else f", broker {self.broker_busy:.0%}"
        return (
            f"{self.offered_hz:,.0f} messages a second offered, {self.recorded_hz:,.0f} recorded, "
            f"{self.lost:,} of {self.sent:,} lost{busy}"
        )


async def record_run(folder: Path, options: BenchOptions, rate_hz: float) -> tuple[RecordRun, Path]:
    """Record what C clients publish.

    Args:
        folder: made for this run.
        options: publishers, size of a message, length of the run.
        rate_hz: messages a second.

    Returns:
        The figures and the log.

    Raises:
        LocalError: broker, recorder or a publisher failed.
    """
    messages = round(rate_hz * options.record_s)
    path = folder / "run.mcap"
    async with Launcher(folder) as launcher:
        broker = LocalBroker()
        address = await launcher.start_broker(broker)
        recorder = await launcher.start_command("record", _record_arguments(path, address))
        await launcher.wait_ready(recorder)
        before_s = (time.monotonic(), cpu_s(recorder.pid), cpu_s(broker.pid))
        offered = await publish(
            address.host,
            address.port,
            processes=options.publishers,
            rate_hz=rate_hz,
            messages=messages - messages % options.publishers,
            size_bytes=options.payload_bytes,
        )
        after_s = (time.monotonic(), cpu_s(recorder.pid), cpu_s(broker.pid))
        await _settled(path)
        if await recorder.drain():
            raise recorder.error()
    wall_s = after_s[0] - before_s[0]
    run = await asyncio.to_thread(
        _run_of, path, offered, _share(before_s[1], after_s[1], wall_s), _share(before_s[2], after_s[2], wall_s)
    )
    return run, path


async def replay_rate_hz(folder: Path, log: Path) -> float:
    """Messages a second that ``latentbus replay --fast`` publishes, acknowledged by the broker.

    Raises:
        LocalError: the replay failed, or published less than the log has.
    """
    figures = folder / "replay.json"
    async with Launcher(folder) as launcher:
        where = _address(await launcher.start_broker())
        player = await launcher.start_command("replay", ["replay", str(log), "--fast", "--json", str(figures), *where])
        if await player.wait():
            raise player.error()
    report = json.loads(figures.read_text(encoding="utf-8"))
    return float(report["published"] / report["duration_s"])


async def fastest_without_loss(
    folder: Path, options: BenchOptions, say: Callable[[str], None]
) -> tuple[list[RecordRun], list[RecordRun], Path]:
    """Raise the rate until something is lost, then repeat at the last rate without a loss.

    Args:
        folder: where logs go; each is deleted but the last.
        options: rates, runs, messages.
        say: told about each run.

    Returns:
        The runs that count, every run, and the log of the last one.
    """
    tried: list[RecordRun] = []
    climb = _Climb(options)
    log: Path | None = None
    while len(climb.counted) < options.repeats:
        if log is not None:
            await asyncio.to_thread(log.unlink)
        run, log = await record_run(folder / f"record-{len(tried) + 1}", options, climb.rate_hz)
        say(run.sentence())
        tried.append(run)
        climb.take(run)
    if log is None:
        raise AssertionError("at least one run counts")
    return climb.counted, tried, log


class _Climb:
    """At which rate the next run is.

    Attributes:
        rate_hz: that rate.
        counted: runs that count so far.
    """

    def __init__(self, options: BenchOptions) -> None:
        self.rate_hz = options.first_hz
        self.counted: list[RecordRun] = []
        self._options = options
        self._rising = True

    def take(self, run: RecordRun) -> None:
        """A run at this rate is over."""
        options = self._options
        lower = self.rate_hz > options.first_hz
        if self._rising:
            # Publishers that cannot keep up with a rate end the climb as a loss does: a higher one would offer no more.
            failed = run.lost > 0 or run.recorded_hz < 0.9 * self.rate_hz
            self._rising = not failed and self.rate_hz * options.factor <= options.most_hz
            if self._rising:
                self.rate_hz *= options.factor
            elif failed and lower:
                self.rate_hz /= options.factor
            else:
                self.counted.append(run)
        elif run.lost and lower:
            # Good luck does not count: the repetitions begin again at the next lower rate.
            self.rate_hz /= options.factor
            self.counted.clear()
        else:
            self.counted.append(run)


def _record_arguments(path: Path, broker: BrokerSettings) -> list[str]:
    limits = ["--max-size", "none", "--max-time", "none"]
    return ["record", str(path), "--topic", f"{TOPIC_ROOT}/#", "--name", RECORDER, *limits, *_address(broker)]


def _address(broker: BrokerSettings) -> list[str]:
    return ["--host", broker.host, "--port", str(broker.port)]


async def _settled(path: Path) -> None:
    """Wait until the log grows no more."""
    size_bytes, since_s = -1, time.monotonic()
    async with asyncio.timeout(SETTLE_TIMEOUT_S):
        while time.monotonic() - since_s < _STABLE_S:
            now_bytes = (await asyncio.to_thread(path.stat)).st_size
            if now_bytes != size_bytes:
                size_bytes, since_s = now_bytes, time.monotonic()
            await asyncio.sleep(_POLL_S)


def _run_of(path: Path, offered: Offered, recorder_busy: float | None, broker_busy: float | None) -> RecordRun:
    seen: Counter[bytes] = Counter()
    with LogReader(path) as reader:
        first_ns, last_ns = reader.start_ns, reader.stop_ns
        for message in reader.messages():
            seen[message.payload] += 1
    span_s = (last_ns - first_ns) / 1e9
    return RecordRun(
        offered_hz=offered.messages / offered.seconds,
        recorded_hz=(len(seen) - 1) / span_s if span_s > 0 else 0.0,
        sent=offered.messages,
        lost=offered.messages - len(seen),
        repeated=seen.total() - len(seen),
        recorder_busy=recorder_busy,
        broker_busy=broker_busy,
    )


def _share(before_s: float | None, after_s: float | None, wall_s: float) -> float | None:
    return None if before_s is None or after_s is None or wall_s <= 0 else (after_s - before_s) / wall_s
