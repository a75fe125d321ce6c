"""The worker process: broker on one side, model on the other, the session between them.

::

    bus --> receive --> session --> batches --> backend
                          |  ^                     |
           publisher <----+  +---------------------+
                |            ^
               bus         timers

Every rule is the session's. Everything but the model runs on one event loop, so the session needs no lock. Named tasks:
``receive``, ``timers``, ``publisher``, ``batches``. A process that serves several pools has all of this once for each
pool, connection and name included, except for the thread of the model.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, assert_never

import structlog

from cloud_workers.loading import OpenBackend, load_worker_model, open_configured, opened_once
from cloud_workers.model_thread import model_thread
from cloud_workers.pass_engine import PassDone, PassEngine, PassResult
from cloud_workers.telemetry import count_answers, shift_signs, watch_shift, watch_worker
from pipeline.bus.base import Bus, ConnectionChange, Inbound
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.config.logs import get_logger
from pipeline.config.settings import LatentbusSettings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.answer_metrics import AnswerMetrics
from pipeline.node.clock import Clock
from pipeline.node.connection import node_bus
from pipeline.node.containment import Containment
from pipeline.node.metrics import Metrics
from pipeline.node.node import Node, Work
from pipeline.node.node_log import node_log
from pipeline.node.process_health import ProcessHealth, ProcessProbe, belongings_of
from pipeline.node.publisher import Publisher
from pipeline.node.runtime import PartStop, Stop, software_version
from pipeline.node.timers import SessionTimers
from pipeline.node.work_thread import WorkThread
from pipeline.protocol import ports
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_session import WorkerOutput, WorkerSession
from pipeline.protocol.worker_status import WorkerIdentity
from pipeline.protocol.worker_work import WorkCosts
from schemas.errors import BusError, ConfigError
from schemas.messages import RejectReason

BATCH_BUCKETS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
DRAIN_RESERVE_S: Final = 1.0
"""Of the drain time, for the goodbye."""

_log = get_logger(__name__)
_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


async def run_worker(settings: LatentbusSettings, stop: Stop, *, open_backend: OpenBackend = open_configured) -> int:
    """Run a worker until it is asked to stop.

    Args:
        settings: broker and worker sections are read.
        stop: set ready once the worker is subscribed in all of its pools.
        open_backend: makes what runs the model.

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
    metrics = Metrics()
    with metrics.serve(worker.metrics_port, worker.metrics_host), model_thread(worker.threads) as thread:
        if not worker.more_pools:
            return await _serve(settings, worker, stop, metrics, thread, open_backend)
        share = opened_once(open_backend)
        workers = [worker.model_copy(update={"more_pools": {}}), *map(worker.of_pool, worker.more_pools)]
        waited_for = {alone.pool for alone in workers}
        metrics.ready.set_function(lambda: float(stop.ready.is_set() and not stop.requested))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    _serve(
                        _in_pool(settings, worker, alone),
                        alone,
                        PartStop(stop, waited_for, alone.pool),
                        metrics.part("pool", alone.pool),
                        thread,
                        share,
                    ),
                    name=f"pool[{alone.pool}]",
                )
                for alone in workers
            ]
        return max(task.result() for task in tasks)


def _in_pool(settings: LatentbusSettings, worker: WorkerSettings, alone: WorkerSettings) -> LatentbusSettings:
    """The settings of a process that would serve one of the pools alone."""
    more = worker.more_pools.get(alone.pool)
    broker = settings.broker if more is None or more.broker is None else more.broker
    return settings.model_copy(update={"worker": alone, "broker": broker})


async def _serve(
    settings: LatentbusSettings,
    worker: WorkerSettings,
    stop: Stop,
    metrics: Metrics,
    thread: WorkThread,
    open_backend: OpenBackend,
) -> int:
    """Serve one pool until the process is asked to stop; its exit status."""
    name = worker.name or f"w-{secrets.token_hex(4)}"
    structlog.contextvars.bind_contextvars(worker=name)
    async with AsyncExitStack() as owned:
        model = await thread.call(load_worker_model, worker, thread, open_backend)
        owned.push_async_callback(model.backend.close)
        identity = WorkerIdentity(
            name, worker.pool, secrets.randbits(32), model.spec.fingerprint4, drawn=worker.name is None
        )
        session = WorkerSession(
            WorkerProtocolSettings(capacity_frames=worker.capacity_frames),
            identity=identity,
            stop_rule=model.stop_rule,
            costs=WorkCosts.by_tokens(model.spec.token_count),
            max_batches=model.engine.max_concurrent_batches,
            max_batch_frames=worker.max_batch_frames,
            max_batch_work=worker.max_batch_tokens,
            gather_s=worker.batch_wait_ms / 1000,
        )
        log = None
        if worker.recording is not None:
            log = await owned.enter_async_context(
                node_log(
                    worker.recording,
                    settings,
                    kind="worker",
                    name=name,
                    codec_dir=worker.codec or bundled_codec_dir(),
                    metrics=metrics,
                )
            )
        bus = await owned.enter_async_context(
            node_bus(
                settings.broker,
                "worker",
                name,
                subscriptions=session.subscriptions(),
                will=session.will(),
                log=log,
            )
        )
        watch_shift(metrics, model.shift)
        metrics.build_info("worker", software_version(), model.spec.fingerprint4.hex())
        health = ProcessHealth(
            ProcessProbe("worker", name, belongings_of(settings.broker, None, worker.recording), metrics),
            metrics,
            tell=session.health,
            more=lambda: shift_signs(name, model.shift),
        )
        traced = settings.broker.traceparent
        return await WorkerNode(session, bus, model.engine, metrics, health=health, traced=traced).run(stop)


class WorkerNode(Node):
    """A worker with its parts in place.

    Args:
        session: its protocol machine.
        bus: entered, with the session's subscriptions and will.
        engine: latents to answers.
        metrics: where it counts.
        clock: monotonic time.
        containment: takes what nobody else has handled.
        health: looks after the health of the process; None for nobody.
        traced: mark answers with the trace of their question.
    """

    def __init__(
        self,
        session: WorkerSession,
        bus: Bus,
        engine: PassEngine,
        metrics: Metrics,
        *,
        clock: Clock | None = None,
        containment: Containment | None = None,
        health: ProcessHealth | None = None,
        traced: bool = False,
    ) -> None:
        super().__init__(bus, metrics, _log, clock=clock, containment=containment)
        self._process_health = health
        self._traced = traced
        self._answers = AnswerMetrics(metrics, "the admission of a frame")
        self._session = session
        self._engine = engine
        self._publisher = Publisher(bus, self._published, problems=self._problems, containment=self._containment)
        self._timers = SessionTimers(session.next_wake_s, self._poll_at, self._clock)
        self._group: asyncio.TaskGroup
        self._beside: set[asyncio.Task[None]] = set()
        self._tokens = 0
        self._unacknowledged: dict[int, Inbound] = {}
        self._connected_once = asyncio.Event()
        self._changed = asyncio.Event()
        self._batch_seconds = metrics.seconds("worker_batch_seconds", "time of one batch at the model")
        self._batch_frames = metrics.amounts("worker_batch_frames", "Frames of one batch", BATCH_BUCKETS)
        self._watch_session(session)
        watch_worker(metrics, session)

    async def _begin(self, group: asyncio.TaskGroup) -> Work:
        self._group = group
        return {
            "timers": lambda: self._containment.repeat("timers", self._timers.step),
            "publisher": self._publisher.run,
            **({} if self._process_health is None else self._watch_health(self._process_health)),
        }

    def drops(self) -> Mapping[str, float]:
        """See :class:`~pipeline.node.node.Node`."""
        counts = dict(self._session.publishes)
        lost = {f"outgoing_{kind}": counts.get(kind, 0) for kind in ("dropped", "failed", "oversize")}
        return {**super().drops(), **lost}

    def queues(self) -> Mapping[str, float]:
        """See :class:`~pipeline.node.node.Node`."""
        return {**super().queues(), "publishes": self._session.waiting(), "frames": self._session.unfinished()}

    def queue_ages_s(self) -> Mapping[str, float]:
        """See :class:`~pipeline.node.node.Node`."""
        admitted_s = [frame.admitted_s for frame in self._session.frames()]
        return {"frames": self._clock.now_s() - min(admitted_s) if admitted_s else 0.0}

    def backlog(self) -> Mapping[str, float]:
        """See :class:`~pipeline.node.node.Node`."""
        return {self._session.identity.pool: self._session.unfinished()}

    def refinements(self) -> float:
        """See :class:`~pipeline.node.node.Node`."""
        return self._session.counters["refines"]

    def lease_expiries(self) -> Mapping[str, float]:
        """See :class:`~pipeline.node.node.Node`."""
        return {"edge": self._session.counters["reopened_here"]}

    async def _prepare(self) -> Mapping[str, Any]:
        await self._connected_once.wait()
        identity = self._session.identity
        return {"pool": identity.pool, "fingerprint": identity.fingerprint.hex(), "boot": identity.boot}

    # ---- inputs of the session --------------------------------------------------------------------------------------

    def _receive(self, events: Sequence[Inbound | ConnectionChange]) -> None:
        for event in events:
            if isinstance(event, Inbound):
                self._session.receive(self._received(event), self._clock.now_s())
                continue
            if not event.connected:
                self._unacknowledged.clear()  # the next connection brings them again
            with self._containment.around("connection"):
                self._session.connection(event.connected, self._clock.now_s())
            if event.connected:
                _log.info("connected", generation=event.generation)
                self._connected_once.set()
        self._poll()

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

    def _published(self, token: int, delivery: ports.Delivery) -> None:
        self._session.published(token, delivery, self._clock.now_s())
        self._poll()

    async def _run_batch(self, batch: ports.RunBatch) -> None:
        started_s = self._clock.now_s()
        try:
            results = [_as_result(result) for result in await self._engine.run(batch.passes)]
        except Exception as error:  # noqa: BLE001 - the passes must not hang at the model for ever
            failure = ports.PassFailure(RejectReason.MODEL, f"{type(error).__name__}: {error}")
            self._batch_done(batch, [failure for _ in batch.passes])
            self._containment.note("batch", error)
            return
        self._batch_seconds.observe(self._clock.now_s() - started_s)
        self._batch_frames.observe(len(batch.passes))
        self._batch_done(batch, results)

    def _batch_done(self, batch: ports.RunBatch, results: Sequence[ports.PassResult]) -> None:
        with self._containment.around("batch done"):
            self._session.batch_done(batch.token, results, self._clock.now_s())
        self._poll()

    # ---- outputs of the session -------------------------------------------------------------------------------------

    def _poll(self) -> None:
        """After every input to the session, and when it is due: do what it wants."""
        self._poll_at(self._clock.now_s())
        self._timers.rearm()

    def _poll_at(self, now_s: float) -> None:
        outputs: Sequence[WorkerOutput] = ()
        with self._containment.around("poll"):
            outputs = self._session.poll(now_s)
            count_answers(self._answers, self._session, now_s)
        for output in outputs:
            with self._containment.around(type(output).__name__.lower()):
                self._carry_out(output)
        self._changed.set()

    def _carry_out(self, output: WorkerOutput) -> None:
        match output:
            case ports.Publish():
                self._publisher.put(output.traced() if self._traced else output)
            case ports.Acknowledge():
                for token in output.tokens:
                    if (inbound := self._unacknowledged.pop(token, None)) is not None:
                        self._bus.acknowledge(inbound)
            case ports.RunBatch():
                self._start(self._run_batch(output), f"batch[{output.token}]")
            case ports.Unsubscribe():
                self._start(self._unsubscribe(output.filter), "unsubscribe")
            case ports.Problem():
                self._problems.take(output)
            case ports.Contained():
                self._containment.note(output.where, output.error)
            case ports.Notice():
                _log.log(_LEVELS[output.level], output.event, **output.context)
            case _:
                assert_never(output)

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self._group.create_task(work, name=name)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    # ---- stop -------------------------------------------------------------------------------------------------------

    async def _drain(self, tasks: Mapping[str, asyncio.Task[None]], timeout_s: float) -> bool:  # noqa: ARG002
        """Leave the share group, pass on or finish what is here, say goodbye."""
        session, limit_s = self._session, timeout_s - DRAIN_RESERVE_S
        _log.info("draining", frames=session.unfinished())
        session.drain(self._clock.now_s())
        self._poll()
        if drained := await self._until(lambda: session.drained() or session.finished(), limit_s):
            _log.info("drained")
        else:
            session.abandon(f"the time to drain is over: {limit_s:g} s", self._clock.now_s())
            self._poll()
        if not await self._until(session.finished, DRAIN_RESERVE_S):
            _log.warning("no goodbye: the broker has not answered")
        for task in list(self._beside):
            task.cancel()
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
        self._session.unsubscribed(topic_filter, self._clock.now_s())
        self._poll()


def _as_result(result: PassResult) -> ports.PassResult:
    if isinstance(result, PassDone):
        return result.answers
    return ports.PassFailure(result.reason, result.problem)
