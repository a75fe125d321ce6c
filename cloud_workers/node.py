"""The worker process: broker on one side, model on the other, the session between them.

::

    bus --> receive --> session --> batcher --> model thread
                          |  ^                      |
             outbox <-----+  +----------------------+
                |            ^
               bus         timers

Everything but the model runs on one event loop, so the session needs no lock. Named tasks: ``receive``, ``batcher``,
``timers``, ``status``, ``outbox``.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from math import inf
from time import monotonic
from typing import Final

import structlog

from cloud_workers import inbox
from cloud_workers.batcher import Batcher
from cloud_workers.loading import load_worker_model
from cloud_workers.look_engine import LookEngine
from cloud_workers.model_thread import ModelThread
from cloud_workers.outbox import Outbox
from cloud_workers.overload_log import OverloadLog
from cloud_workers.status import STATUS_REFRESH_S, WorkerIdentity
from pipeline.bus.base import Bus, ConnectionChange, Inbound
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.stop_shift import ShiftDetector
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.config.settings import LatentbusSettings
from pipeline.node.containment import Containment
from pipeline.node.metrics import Metrics
from pipeline.node.node_log import node_log
from pipeline.node.older_peers import listen_for_older_peers
from pipeline.node.runtime import EXIT_NOT_DRAINED, Stop
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_session import WorkerSession
from pipeline.protocol.worker_work import WorkCosts
from schemas import topics
from schemas.errors import BusError, ConfigError, ConnectionLostError, RemoteError

TICK_S: Final = 0.05
"""Resolution of deadlines and leases; a sixth of the margin by which the session finalises early."""
RECEIVE_BATCH: Final = 64
"""Messages handled before the loop may turn to something else: at about 0.1 ms each, far under a stall of 50 ms."""
STATUS_INTERVAL_S: Final = 2.0
STATUS_ON_CHANGE_S: Final = 0.5
"""Peers hand over by load, so a change is told soon, but not with every frame."""
CONNECT_LOG_S: Final = 30.0
DRAIN_RESERVE_S: Final = 1.0
"""Of the drain time, for the last publishes."""

_log = get_logger(__name__)


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
        containment = Containment(_log)
        identity = WorkerIdentity(
            name, worker.pool, secrets.randbits(32), model.spec.fingerprint4, drawn=worker.name is None
        )
        session = WorkerSession(
            WorkerProtocolSettings(capacity_frames=worker.capacity_frames),
            worker=name,
            pool=worker.pool,
            fingerprint=identity.fingerprint,
            stop_rule=model.stop_rule,
            costs=WorkCosts.by_tokens(model.spec.token_count),
            contain=containment.note,
        )
        connection = MqttBus(
            settings.broker,
            client_id=f"lb-worker-{name}",
            subscriptions=inbox.subscriptions(name, worker.pool),
            will=identity.will(),
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
            node = WorkerNode(
                identity,
                session,
                bus,
                model.engine,
                thread,
                metrics,
                max_batch_frames=worker.max_batch_frames,
                max_batch_tokens=worker.max_batch_tokens,
                containment=containment,
            )
            return await node.run(stop)


def _watch_shift(metrics: Metrics, shift: ShiftDetector | None) -> None:
    if shift is not None:
        metrics.watch_gauge("stop_shift", "1 while answers are unlike those of the calibration", lambda: shift.shifted)
        metrics.watch_gauge("stop_shift_distance", "distance of the last window from it", lambda: shift.distance)


class WorkerNode:
    """A worker with its parts in place.

    Args:
        identity: who it is.
        session: its protocol machine.
        bus: entered, with the subscriptions of :func:`cloud_workers.inbox.subscriptions`.
        engine: latents to answers.
        thread: where the engine runs.
        metrics: where it counts.
        max_batch_frames: frames in one batch of the model.
        max_batch_tokens: their tokens, as the session counts its work.
        clock: monotonic time in seconds.
        containment: takes what nobody else has handled; the session's as well.
    """

    def __init__(
        self,
        identity: WorkerIdentity,
        session: WorkerSession,
        bus: Bus,
        engine: LookEngine,
        thread: ModelThread,
        metrics: Metrics,
        *,
        max_batch_frames: int,
        max_batch_tokens: float = math.inf,
        clock: Callable[[], float] = monotonic,
        containment: Containment | None = None,
    ) -> None:
        self._identity = identity
        self._session = session
        self._bus = bus
        self._metrics = metrics
        self._clock = clock
        self._problems = OncePerKind(_log)
        self._containment = containment or Containment(_log)
        self._outbox = Outbox(bus, self._problems, containment=self._containment)
        self._batcher = Batcher(
            session,
            engine,
            thread,
            max_batch_frames=max_batch_frames,
            max_batch_work=max_batch_tokens,
            clock=clock,
            effects_due=self._hand_on,
            batch_done=self._batch_done,
            containment=self._containment,
        )
        self._ticked_s = -inf
        self._connected = asyncio.Event()
        self._status_due = asyncio.Event()
        self._timers_due = asyncio.Event()
        self._changed = asyncio.Event()
        self._batch_seconds = metrics.seconds("worker_batch_seconds", "time of one batch in the model's thread")
        self._batch_frames = metrics.counter("worker_batch_frames", "frames that went through the model")
        self._watch()

    async def run(self, stop: Stop) -> int:
        """Work until asked to stop, then drain.

        Returns:
            Exit status: 0, or EXIT_NOT_DRAINED when frames were left behind.
        """
        tasks = {
            "receive": self._receive,
            "batcher": self._batcher.run,
            "timers": self._tick,
            "status": self._tell_status,
            "outbox": self._outbox.run,
        }
        with self._problems:
            async with asyncio.TaskGroup() as group:
                running = {name: group.create_task(task(), name=name) for name, task in tasks.items()}
                connecting = group.create_task(self._become_ready(stop), name="connect")
                await stop.wait()
                connecting.cancel()
                drained = await self._drain(stop.drain_timeout_s - DRAIN_RESERVE_S)
                # The farewell is the last word on the status topic: nothing that says "online" may follow it.
                running["status"].cancel()
                await asyncio.wait({running["status"]})
                await self._say_goodbye()
                for running_task in running.values():
                    running_task.cancel()
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
        _log.info(
            "ready", pool=self._identity.pool, fingerprint=self._identity.fingerprint.hex(), boot=self._identity.boot
        )

    async def _receive(self) -> None:
        while True:
            for event in await self._bus.receive_batch(RECEIVE_BATCH):
                if isinstance(event, Inbound):
                    self._receive_one(event)
                elif event.connected:
                    with self._containment.around("connection"):
                        self._connection_made(event)
            self._hand_on()
            # A backlog must not keep the other tasks from the loop.
            await asyncio.sleep(0)

    def _receive_one(self, inbound: Inbound) -> None:
        kind = topics.label_of(inbound.topic)
        with self._containment.around(f"receive/{kind}"):
            try:
                inbox.receive(self._session, inbound, self._clock())
            except RemoteError as error:
                self._problems.remote_error(kind, error, topic=inbound.topic[: topics.MAX_TOPIC_BYTES])
        # Admitted, turned away or bad: the session remembers what it must, the broker need not.
        self._bus.acknowledge(inbound)

    def _connection_made(self, change: ConnectionChange) -> None:
        _log.info("connected", generation=change.generation)
        self._session.connection_made(self._clock())
        self._connected.set()
        self._status_due.set()

    async def _tick(self) -> None:
        """Tick when the session is due; any input may make it due earlier."""
        await self._containment.repeat("timers", self._tick_once)

    async def _tick_once(self) -> None:
        due_s = self._session.next_wake_s()
        self._timers_due.clear()
        try:
            async with asyncio.timeout(None if due_s is None else max(TICK_S, due_s - self._clock())):
                await self._timers_due.wait()
        except TimeoutError:
            self._tick_now()
        else:
            # Under a flood something wakes this task before each timeout; what is due is due all the same.
            now_s = self._clock()
            if due_s is not None and now_s >= max(due_s, self._ticked_s + TICK_S):
                self._tick_now()

    def _tick_now(self) -> None:
        self._ticked_s = self._clock()
        self._session.tick(self._ticked_s)
        self._hand_on()

    async def _tell_status(self) -> None:
        """Birth at each connection; the load soon after it changed, and regularly all the same."""
        await self._connected.wait()
        told: tuple[int, int] | None = None
        told_s = retained_s = 0.0
        overload_log = OverloadLog(self._session)
        while True:
            overload_log.look(self._clock())
            load = self._session.load()
            due = self._status_due.is_set() or (self._identity.drawn and self._clock() - retained_s >= STATUS_REFRESH_S)
            if due or load != told or self._clock() - told_s >= STATUS_INTERVAL_S:
                self._status_due.clear()
                try:
                    payload = self._identity.status(online=True, parked=load[0], capacity=load[1])
                    if due:
                        expiry_s = self._identity.expiry_s
                        await self._bus.publish(self._identity.topic, payload, qos=1, retain=True, expiry_s=expiry_s)
                        retained_s = self._clock()
                    await self._bus.publish(self._identity.load_topic, payload)
                    told, told_s = load, self._clock()
                except BusError as error:
                    self._problems.report("status", str(error))
            try:
                async with asyncio.timeout(STATUS_ON_CHANGE_S):
                    await self._status_due.wait()
            except TimeoutError:
                pass

    # ---- between the tasks ------------------------------------------------------------------------------------------

    def _hand_on(self) -> None:
        """After every input to the session: its effects to the outbox, its frames to the model, its timers running."""
        for effect in self._session.take_effects():
            with self._containment.around("effect"):
                self._outbox.put_effect(effect)
        self._batcher.wake()
        self._timers_due.set()
        self._changed.set()

    def _batch_done(self, seconds: float, frames: int) -> None:
        self._batch_seconds.observe(seconds)
        self._batch_frames.inc(frames)

    # ---- stop -------------------------------------------------------------------------------------------------------

    async def _drain(self, limit_s: float) -> bool:
        """Leave the share group, pass on or finish what is here, say goodbye."""
        _log.info("draining", frames=self._session.unfinished())
        self._metrics.ready.set(0)
        drained = True
        try:
            async with asyncio.timeout(max(0.0, limit_s)):
                await self._unsubscribe()
                self._session.drain(self._clock())
                self._status_due.set()
                self._hand_on()
                # What the broker dealt before it heard of the unsubscription is still to be turned away.
                while self._session.unfinished() or self._bus.statistics().incoming_messages:
                    self._changed.clear()
                    await self._changed.wait()
                await self._outbox.flush()
        except TimeoutError:
            drained = False
            _log.warning("not drained in time", frames=self._session.unfinished(), messages=len(self._outbox))
        return drained

    async def _say_goodbye(self) -> None:
        """Tell that this worker goes. Under a drawn name nobody comes back, so nothing of it stays on the broker."""
        identity = self._identity
        farewell = identity.status(online=False)
        retain = not identity.drawn
        try:
            await self._bus.publish(identity.topic, farewell, qos=1, retain=retain, timeout_s=DRAIN_RESERVE_S)
            if identity.drawn:
                await self._bus.publish(identity.topic, b"", qos=1, retain=True, timeout_s=DRAIN_RESERVE_S)
        except BusError as error:
            _log.warning("no goodbye", problem=str(error))

    async def _unsubscribe(self) -> None:
        try:
            await self._bus.unsubscribe(topics.share_filter(self._identity.pool))
        except BusError as error:
            _log.warning("left the share group without an answer of the broker", problem=str(error))

    def _watch(self) -> None:
        metrics, session, outbox = self._metrics, self._session, self._outbox
        metrics.watch_counters("worker_events", "events of the worker session", "event", lambda: session.counters)
        metrics.watch_counters(
            "query_outcomes", "terminal answers by outcome and by who asked", ("outcome", "asked"), session.outcomes
        )
        metrics.watch_counters("worker_publishes", "publishes of the worker", "result", lambda: outbox.counters)
        metrics.watch_counters(
            "messages_dropped", "messages dropped, by kind and reason", "kind", lambda: self._problems.counts
        )
        metrics.watch_counters(
            "worker_contained",
            "bugs of Latentbus that ended one message or frame",
            "kind",
            lambda: self._containment.counts,
        )
        metrics.watch_gauges(
            "worker_tables", "entries or bytes of what the worker session keeps", "table", session.sizes
        )
        metrics.watch_gauge("worker_frames", "frames held and not decided", session.unfinished)
        metrics.watch_gauge("worker_outbox_messages", "messages that wait for the broker", lambda: len(outbox))
        metrics.watch_gauge("bus_connected", "1 while connected", lambda: self._bus.statistics().connected)
        metrics.watch_counters("bus_messages", "messages of the bus", "event", self._bus_counters)

    def _bus_counters(self) -> dict[str, float]:
        """The monotone part of the bus statistics."""
        suffixes = ("received", "acknowledged", "dropped_qos0", "dropped_qos1", "discarded", "published")
        values = asdict(self._bus.statistics())
        return {suffix: values[f"{suffix}_messages"] for suffix in suffixes}
