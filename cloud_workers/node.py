"""The worker process: broker on one side, model on the other, the session between them.

::

    bus --> receive --> session --> batcher --> model
                          |  ^                  |
    publish queue <-------+  +------------------+
                |            ^
               bus         timers

Everything but the model runs on one event loop, so the session needs no lock. Named tasks: ``receive``, ``batcher``,
``timers``, ``status``, ``publish queue``.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog

from cloud_workers import inbox
from cloud_workers.batcher import Batcher
from cloud_workers.inference.in_process import open_in_process
from cloud_workers.loading import OpenBackend, load_worker_model
from cloud_workers.look_engine import LookEngine
from cloud_workers.model_thread import model_thread
from cloud_workers.publish_queue import PublishQueue
from cloud_workers.status import WorkerIdentity
from cloud_workers.status_reports import StatusReports
from pipeline.bus.base import Bus, ConnectionChange, Inbound
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.stop_shift import ShiftDetector
from pipeline.config.logs import get_logger
from pipeline.config.settings import LatentbusSettings
from pipeline.node.clock import Clock
from pipeline.node.connection import node_bus
from pipeline.node.containment import Containment
from pipeline.node.metrics import Metrics
from pipeline.node.node import Node, Work
from pipeline.node.node_log import node_log
from pipeline.node.runtime import Stop
from pipeline.node.timers import SessionTimers
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_session import WorkerSession
from pipeline.protocol.worker_work import WorkCosts
from schemas import topics
from schemas.errors import BusError, ConfigError, RemoteError

DRAIN_RESERVE_S: Final = 1.0
"""Of the drain time, for the last publishes."""

_log = get_logger(__name__)


async def run_worker(settings: LatentbusSettings, stop: Stop, *, open_backend: OpenBackend = open_in_process) -> int:
    """Run a worker until it is asked to stop.

    Args:
        settings: broker and worker sections are read.
        stop: set ready once the worker is subscribed.
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
    name = worker.name or f"w-{secrets.token_hex(4)}"
    structlog.contextvars.bind_contextvars(worker=name)
    metrics = Metrics()
    async with AsyncExitStack() as owned:
        owned.enter_context(metrics.serve(worker.metrics_port, worker.metrics_host))
        thread = owned.enter_context(model_thread(worker.threads))
        model = await thread.call(load_worker_model, worker, thread, open_backend)
        owned.push_async_callback(model.backend.close)
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
                subscriptions=inbox.subscriptions(name, worker.pool),
                will=identity.will(),
                log=log,
            )
        )
        _watch_shift(metrics, model.shift)
        node = WorkerNode(
            identity,
            session,
            bus,
            model.engine,
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


class WorkerNode(Node):
    """A worker with its parts in place.

    Args:
        identity: who it is.
        session: its protocol machine.
        bus: entered, with the subscriptions of :func:`cloud_workers.inbox.subscriptions`.
        engine: latents to answers.
        metrics: where it counts.
        max_batch_frames: frames in one batch of the model.
        max_batch_tokens: their tokens, as the session counts its work.
        clock: monotonic time.
        containment: takes what nobody else has handled; the session's as well.
    """

    def __init__(
        self,
        identity: WorkerIdentity,
        session: WorkerSession,
        bus: Bus,
        engine: LookEngine,
        metrics: Metrics,
        *,
        max_batch_frames: int,
        max_batch_tokens: float = math.inf,
        clock: Clock | None = None,
        containment: Containment | None = None,
    ) -> None:
        super().__init__(bus, metrics, _log, clock=clock, containment=containment)
        self._identity = identity
        self._session = session
        self._publishes = PublishQueue(bus, self._problems, containment=self._containment)
        self._batcher = Batcher(
            session,
            engine,
            max_batch_frames=max_batch_frames,
            max_batch_work=max_batch_tokens,
            clock=self._clock,
            effects_due=self._hand_on,
            batch_done=self._batch_done,
            containment=self._containment,
        )
        self._timers = SessionTimers(session.next_wake_s, self._tick, self._clock)
        self._status = StatusReports(identity, session, bus, self._problems, self._clock)
        self._session_knows = asyncio.Event()
        self._changed = asyncio.Event()
        self._batch_seconds = metrics.seconds("worker_batch_seconds", "time of one batch in the model's thread")
        self._batch_frames = metrics.counter("worker_batch_frames", "frames that went through the model")
        self._watch()

    async def _begin(self, group: asyncio.TaskGroup) -> Work:  # noqa: ARG002 - nothing here needs the group
        return {
            "batcher": self._batcher.run,
            "timers": lambda: self._containment.repeat("timers", self._timers.step),
            "status": self._status.run,
            "publish queue": self._publishes.run,
        }

    async def _prepare(self) -> Mapping[str, Any]:
        await self._session_knows.wait()
        identity = self._identity
        return {"pool": identity.pool, "fingerprint": identity.fingerprint.hex(), "boot": identity.boot}

    def _receive(self, events: Sequence[Inbound | ConnectionChange]) -> None:
        for event in events:
            if isinstance(event, Inbound):
                self._receive_one(event)
            elif event.connected:
                with self._containment.around("connection"):
                    self._connection_made(event)
        self._hand_on()

    def _receive_one(self, inbound: Inbound) -> None:
        kind = topics.label_of(inbound.topic)
        with self._containment.around(f"receive/{kind}"):
            try:
                inbox.receive(self._session, inbound, self._clock.now_s())
            except RemoteError as error:
                self._problems.remote_error(kind, error, topic=inbound.topic[: topics.MAX_TOPIC_BYTES])
        # Admitted, turned away or bad: the session remembers what it must, the broker need not.
        self._bus.acknowledge(inbound)

    def _connection_made(self, change: ConnectionChange) -> None:
        _log.info("connected", generation=change.generation)
        self._session.connection_made(self._clock.now_s())
        self._session_knows.set()
        self._status.due()

    def _tick(self, now_s: float) -> None:
        self._session.tick(now_s)
        self._hand_on()

    def _hand_on(self) -> None:
        """After every input to the session: its effects to the broker, its frames to the model, its timers running."""
        for effect in self._session.take_effects():
            with self._containment.around("effect"):
                self._publishes.put_effect(effect)
        self._batcher.wake()
        self._timers.rearm()
        self._changed.set()

    def _batch_done(self, seconds: float, frames: int) -> None:
        self._batch_seconds.observe(seconds)
        self._batch_frames.inc(frames)

    # ---- stop -------------------------------------------------------------------------------------------------------

    async def _drain(self, tasks: Mapping[str, asyncio.Task[None]], timeout_s: float) -> bool:
        """Leave the share group, pass on or finish what is here, say goodbye."""
        _log.info("draining", frames=self._session.unfinished())
        drained = True
        try:
            async with asyncio.timeout(max(0.0, timeout_s - DRAIN_RESERVE_S)):
                await self._unsubscribe()
                self._session.drain(self._clock.now_s())
                self._status.due()
                self._hand_on()
                # What the broker dealt before it heard of the unsubscription is still to be turned away.
                while self._session.unfinished() or self._bus.statistics().incoming_messages:
                    self._changed.clear()
                    await self._changed.wait()
                await self._publishes.flush()
        except TimeoutError:
            drained = False
            _log.warning("not drained in time", frames=self._session.unfinished(), messages=len(self._publishes))
        # The farewell is the last word on the status topic: nothing that says "online" may follow it.
        tasks["status"].cancel()
        await asyncio.wait({tasks["status"]})
        await self._status.say_goodbye(DRAIN_RESERVE_S)
        return drained

    async def _unsubscribe(self) -> None:
        try:
            await self._bus.unsubscribe(topics.share_filter(self._identity.pool))
        except BusError as error:
            _log.warning("left the share group without an answer of the broker", problem=str(error))

    def _watch(self) -> None:
        metrics, session, publishes = self._metrics, self._session, self._publishes
        self._watch_session(session)
        metrics.watch_counters(
            "query_outcomes", "terminal answers by outcome and by who asked", ("outcome", "asked"), session.outcomes
        )
        metrics.watch_counters("worker_publishes", "publishes of the worker", "result", lambda: publishes.counters)
        metrics.watch_gauge("worker_batches", "batches at the model", lambda: self._batcher.in_flight)
        metrics.watch_gauge("worker_tokens_per_second", "measured throughput of the model", session.throughput)
        metrics.watch_gauge("worker_frames", "frames held and not decided", session.unfinished)
        metrics.watch_gauge("worker_queued_publishes", "messages that wait for the broker", lambda: len(publishes))
