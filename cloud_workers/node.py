"""The worker process: broker on one side, model on the other, the session between them.

::

    bus --> receive --> session --> batches --> model thread
                          |  ^                      |
           publisher <----+  +----------------------+
                |            ^
               bus         timers

The session decides, this module moves (docs/shell-contract.md). Everything but the model runs on one event loop, so the
session needs no lock. Named tasks: ``receive``, ``timers``, ``publisher``, and one for each batch.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from time import monotonic, perf_counter
from typing import Final, assert_never

import structlog

from cloud_workers.loading import load_worker_model
from cloud_workers.look_engine import LookDone, LookEngine, LookResult
from cloud_workers.model_thread import ModelThread
from cloud_workers.telemetry import watch_worker
from pipeline.bus.base import Bus, Inbound
from pipeline.bus.mqtt import MqttBus
from pipeline.bus.publisher import Publisher
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.stop_shift import ShiftDetector
from pipeline.containment import Containment
from pipeline.logs import OncePerKind, get_logger
from pipeline.metrics import Metrics
from pipeline.older_peers import listen_for_older_peers
from pipeline.protocol import ports
from pipeline.protocol.effects import Look
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_session import WorkerOutput, WorkerSession
from pipeline.protocol.worker_status import WorkerIdentity
from pipeline.protocol.worker_work import WorkCosts
from pipeline.recording.node_log import node_log
from pipeline.runtime import EXIT_NOT_DRAINED, Stop
from pipeline.settings import LatentbusSettings
from schemas.errors import BusError, ConfigError, ConnectionLostError, RemoteError
from schemas.messages import RejectReason

TICK_S: Final = 0.05
"""Resolution of deadlines and leases; a sixth of the margin by which the session finalises early."""
RECEIVE_BATCH: Final = 64
"""Messages handled before the loop may turn to something else: at about 0.1 ms each, far under a stall of 50 ms."""
MAX_BATCHES: Final = 1
"""At the model at a time: its thread runs one after the other."""
CONNECT_LOG_S: Final = 30.0
DRAIN_RESERVE_S: Final = 1.0
"""Of the drain time, for the goodbye."""

_log = get_logger(__name__)
_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


async def run_worker(settings: LatentbusSettings, stop: Stop) -> int:
    """Run a worker until it is asked to stop.

    Args:
        settings: broker and worker sections are read.
        stop: set ready once the worker is subscribed.

    Returns:
        Exit status: 0, or EXIT_NOT_DRAINED when frames were left behind.

    Raises:
        ConfigError: there is no worker section, or its recording cannot be written.
        ArtifactError: model or codec are missing or do not belong together.
        NotAuthorizedError: the broker refuses this worker.
    """
    if settings.worker is None:
        raise ConfigError("worker", "this process needs a worker section")
    worker = settings.worker
    name = worker.name or f"w-{secrets.token_hex(4)}"
    structlog.contextvars.bind_contextvars(worker=name)
    metrics = Metrics()
    with metrics.serve(worker.metrics_port, worker.metrics_host), ModelThread(worker.threads) as thread:
        model = await thread.call(load_worker_model, worker)
        identity = WorkerIdentity(
            name, worker.pool, secrets.randbits(32), model.spec.fingerprint4, drawn=worker.name is None
        )
        session = WorkerSession(
            WorkerProtocolSettings(capacity_frames=worker.capacity_frames),
            identity=identity,
            stop_rule=model.stop_rule,
            costs=WorkCosts.by_tokens(model.spec.token_count),
            max_batches=MAX_BATCHES,
            max_batch_frames=worker.max_batch_frames,
            max_batch_work=worker.max_batch_tokens,
        )
        connection = MqttBus(
            settings.broker,
            client_id=f"lb-worker-{name}",
            subscriptions=session.subscriptions(),
            will=session.will(),
        )
        bus: Bus = connection
        async with AsyncExitStack() as owned:
            if worker.recording is not None:
                log = await owned.enter_async_context(
                    node_log(
                        worker.recording,
                        settings,
                        where="worker.recording.file",
                        name=f"worker/{name}",
                        codec_dir=worker.codec or bundled_codec_dir(),
                    )
                )
                log.watch(metrics)
                bus = log.tap(connection)
            await owned.enter_async_context(connection)
            _watch_shift(metrics, model.shift)
            return await WorkerNode(session, bus, model.engine, thread, metrics).run(stop)


def _watch_shift(metrics: Metrics, shift: ShiftDetector | None) -> None:
    if shift is not None:
        metrics.watch_gauge("stop_shift", "1 while answers are unlike those of the calibration", lambda: shift.shifted)
        metrics.watch_gauge("stop_shift_distance", "distance of the last window from it", lambda: shift.distance)


class WorkerNode:
    """A worker with its parts in place.

    Args:
        session: its protocol machine.
        bus: entered, with the session's subscriptions and will.
        engine: latents to answers.
        thread: where the engine runs.
        metrics: where it counts.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        session: WorkerSession,
        bus: Bus,
        engine: LookEngine,
        thread: ModelThread,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._session = session
        self._bus = bus
        self._engine = engine
        self._thread = thread
        self._metrics = metrics
        self._clock = clock
        self._problems = OncePerKind(_log)
        self._containment = Containment(_log)
        self._publisher = Publisher(bus, self._published, problems=self._problems, containment=self._containment)
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tokens = 0
        self._unacknowledged: dict[int, Inbound] = {}
        self._polled_s = -math.inf
        self._connected = asyncio.Event()
        self._timers_due = asyncio.Event()
        self._changed = asyncio.Event()
        self._batch_seconds = metrics.seconds("worker_batch_seconds", "time of one batch in the model's thread")
        self._batch_frames = metrics.counter("worker_batch_frames", "frames that went through the model")
        watch_worker(metrics, session, bus, self._problems, self._containment)

    async def run(self, stop: Stop) -> int:
        """Work until asked to stop, then drain.

        Returns:
            Exit status: 0, or EXIT_NOT_DRAINED when frames were left behind.
        """
        tasks = {"receive": self._receive, "timers": self._keep_time, "publisher": self._publisher.run}
        with self._problems:
            async with self._group as group:
                running = [group.create_task(task(), name=name) for name, task in tasks.items()]
                connecting = group.create_task(self._become_ready(stop), name="connect")
                await stop.wait()
                connecting.cancel()
                drained = await self._drain(stop.drain_timeout_s - DRAIN_RESERVE_S)
                for task in (*running, *self._tasks):
                    task.cancel()
        return 0 if drained else EXIT_NOT_DRAINED

    # ---- tasks ------------------------------------------------------------------------------------------------------

    async def _become_ready(self, stop: Stop) -> None:
        while True:
            try:
                await self._bus.wait_connected(CONNECT_LOG_S)
                break
            except ConnectionLostError as error:
                _log.warning("still waiting for the broker", problem=str(error))
        await self._connected.wait()
        await listen_for_older_peers(self._bus)
        self._metrics.ready.set(1)
        stop.set_ready()
        identity = self._session.identity
        _log.info("ready", pool=identity.pool, fingerprint=identity.fingerprint.hex(), boot=identity.boot)

    async def _receive(self) -> None:
        while True:
            for event in await self._bus.receive_batch(RECEIVE_BATCH):
                if isinstance(event, Inbound):
                    self._session.receive(self._received(event), self._clock())
                else:
                    with self._containment.around("connection"):
                        self._session.connection(event.connected, self._clock())
                    if event.connected:
                        _log.info("connected", generation=event.generation)
                        self._connected.set()
            self._poll()
            # A backlog must not keep the other tasks from the loop.
            await asyncio.sleep(0)

    def _received(self, inbound: Inbound) -> ports.Received:
        token = None
        if inbound.qos:
            self._tokens += 1
            token = self._tokens
            self._unacknowledged[token] = inbound
        return ports.Received(
            inbound.topic,
            inbound.payload,
            inbound.retain,
            inbound.response_topic,
            inbound.correlation_data,
            token,
        )

    async def _keep_time(self) -> None:
        await self._containment.repeat("timers", self._keep_time_once)

    async def _keep_time_once(self) -> None:
        """Poll when the session is due; any input may make it due earlier."""
        due_s = self._session.next_wake_s()
        self._timers_due.clear()
        wait_s = None if due_s is None else max(due_s - self._clock(), self._polled_s + TICK_S - self._clock())
        try:
            async with asyncio.timeout(wait_s):
                await self._timers_due.wait()
        except TimeoutError:
            self._poll()

    # ---- between the tasks ------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        """After every input to the session, and when it is due: do what it wants."""
        self._polled_s = self._clock()
        outputs: Sequence[WorkerOutput] = ()
        with self._containment.around("poll"):
            outputs = self._session.poll(self._polled_s)
        for output in outputs:
            with self._containment.around(type(output).__name__.lower()):
                self._carry_out(output)
        self._timers_due.set()
        self._changed.set()

    def _carry_out(self, output: WorkerOutput) -> None:
        match output:
            case ports.Publish():
                self._publisher.put(output)
            case ports.Acknowledge():
                for token in output.tokens:
                    self._bus.acknowledge(self._unacknowledged.pop(token))
            case ports.RunBatch():
                self._start(self._run_batch(output), f"batch {output.token}")
            case ports.Unsubscribe():
                self._start(self._unsubscribe(output.filter), "unsubscribe")
            case ports.Problem():
                self._report(output)
            case ports.Contained():
                self._containment.note(output.where, output.error)
            case ports.Notice():
                _log.log(_LEVELS[output.level], output.event, **output.context)
            case _:
                assert_never(output)

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _report(self, problem: ports.Problem) -> None:
        if isinstance(problem.error, RemoteError):
            self._problems.remote_error(problem.kind, problem.error, **problem.context)
        else:
            self._problems.report(problem.kind, problem.text, about=problem.about, **problem.context)

    def _published(self, token: int, delivery: ports.Delivery) -> None:
        self._session.published(token, delivery, self._clock())
        self._poll()

    async def _run_batch(self, batch: ports.RunBatch) -> None:
        try:
            seconds, results = await self._thread.call(self._timed, batch.looks)
        except Exception as error:  # noqa: BLE001 - the looks must not hang at the model for ever
            failure = ports.LookFailure(RejectReason.MODEL, f"{type(error).__name__}: {error}")
            self._batch_done(batch, [failure for _ in batch.looks])
            self._containment.note("batch", error)
            return
        self._batch_seconds.observe(seconds)
        self._batch_frames.inc(len(batch.looks))
        self._batch_done(batch, [_as_result(result) for result in results])

    def _batch_done(self, batch: ports.RunBatch, results: Sequence[ports.LookResult]) -> None:
        with self._containment.around("batch done"):
            self._session.batch_done(batch.token, results, self._clock())
        self._poll()

    def _timed(self, looks: Sequence[Look]) -> tuple[float, list[LookResult]]:
        started = perf_counter()
        results = self._engine.run(looks)
        return perf_counter() - started, results

    # ---- stop -------------------------------------------------------------------------------------------------------

    async def _drain(self, limit_s: float) -> bool:
        """Leave the share group, pass on or finish what is here, say goodbye."""
        session = self._session
        _log.info("draining", frames=session.unfinished())
        self._metrics.ready.set(0)
        session.drain(self._clock())
        self._poll()
        if drained := await self._until(lambda: session.drained() or session.finished(), limit_s):
            _log.info("drained")
        else:
            session.abandon(f"the time to drain is over: {limit_s:g} s", self._clock())
            self._poll()
        if not await self._until(session.finished, DRAIN_RESERVE_S):
            _log.warning("no goodbye: the broker has not answered")
        return drained

    async def _until(self, reached: Callable[[], bool], limit_s: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, limit_s)):
                while not reached():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _unsubscribe(self, topic_filter: str) -> None:
        try:
            await self._bus.unsubscribe(topic_filter)
        except BusError as error:
            _log.warning("left the share group without an answer of the broker", problem=str(error))
        # What the broker dealt before it heard of this is still to be received.
        while self._bus.statistics().incoming_messages:
            self._changed.clear()
            await self._changed.wait()
        self._session.unsubscribed(topic_filter, self._clock())
        self._poll()


def _as_result(result: LookResult) -> ports.LookResult:
    if isinstance(result, LookDone):
        return result.answers
    return ports.LookFailure(result.reason, result.problem)
