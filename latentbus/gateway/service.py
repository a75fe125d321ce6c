"""The gateway without HTTP: it hears the fleet, stores outcomes, decides about alerts, and tells who listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from pydantic import BaseModel

from latentbus.client.client import Client
from latentbus.client.mailbox import Told
from latentbus.client.questions import ask_of
from latentbus.gateway.access import Principal
from latentbus.gateway.alert_modes import AlertModes
from latentbus.gateway.alerts import AlertBook, Change
from latentbus.gateway.errors import ConflictError, UnavailableError
from latentbus.gateway.history import History
from latentbus.gateway.home_assistant import HomeAssistant
from latentbus.gateway.hub import Hub, Subscriber, encoded, json_line
from latentbus.gateway.models import (
    AlertView,
    AnswerView,
    AskRequest,
    CamerasUpdate,
    FleetUpdate,
    GapView,
    HealthView,
    Snapshot,
)
from latentbus.gateway.notify import Notifier
from latentbus.gateway.state import STRIP, FleetState
from latentbus.gateway.store import Store
from latentbus.gateway.system_alerts import SystemAlerts
from latentbus.gateway.telemetry import GatewayMetrics
from latentbus.gateway.views import Views, whole_latents
from pipeline.bus.base import ConnectionChange
from pipeline.config.alert_rules import SiteProfiles
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.gateway_settings import GatewaySettings
from pipeline.config.logs import get_logger
from pipeline.config.reload import cold_changes
from pipeline.node.containment import Containment
from pipeline.node.process_health import Belongings, ProcessProbe, belongings_of
from schemas.errors import ConfigError, StateError
from schemas.identity import ad_hoc_query_id, owner_of

TICK_S: Final = 1.0
"""Between two looks at the fleet: what changed is told, and states that last become alerts."""
TRIM_S: Final = 600.0
HEARD_S: Final = 5.0
"""Between two notes on disk that the broker is heard: an absence may seem longer by so much."""
RESTORED_ROWS: Final = 20_000
"""Outcomes of the history that are looked at for the latest answers of each camera."""
SETTLE_S: Final = 5.0
"""After a connection: time until the broker has surely said what it retains about the sites."""
HOT: Final = (("alerts", "rules"), ("alerts", "system"))
"""Settings that take effect when they are read again; all others need a restart."""
RETRY_HINT: Final = b"retry: 1000\n\n"
"""A browser whose stream broke asks again after so many milliseconds."""
SHOWN_ALERTS: Final = 50
MAX_CHANGES: Final = 1_024
"""Alerts that began or ended and are not stored yet."""
SHOWN_GAPS: Final = 20
SHORT_GAP_S: Final = 2.0
"""A shorter interruption during which the broker kept everything is not worth a line."""

_log = get_logger(__name__)


class Gateway:
    """Hears the fleet and answers for it. Run with :meth:`running`.

    Args:
        broker: where the fleet is.
        settings: of the gateway.
        metrics: where it counts.
        notifier: sends alerts; entered by whoever runs the gateway.
        sites: profiles of the sites that the settings know.
        now_s: monotonic time.
        wall_s: seconds since 1970.

    Attributes:
        client: its connection.
        hub: who listens.
        state: the latest answers.
        store: what it remembers.
        system: what is wrong with the fleet.
        home_assistant: tells Home Assistant, if it is to.
        tick_s: time between two looks at the fleet.
        alerts: the alerts that go on, and the latest that are over.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        settings: GatewaySettings,
        metrics: GatewayMetrics,
        notifier: Notifier,
        *,
        sites: Mapping[str, SiteProfiles] | None = None,
        now_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._notifier = notifier
        self._now_s = now_s
        self._wall_s = wall_s
        self.client = Client(
            broker,
            name=settings.name,
            connect_timeout_s=None,
            whole_fleet=True,
            keeper=self,
            session_expiry_s=settings.session_s,
            announce=True,
        )
        self.hub = Hub()
        self.state = FleetState(self.client.fleet)
        shown = settings.home_assistant
        self.home_assistant = None if shown is None else HomeAssistant(self.client, self.state, shown, now_s=now_s)
        self.store = Store(settings.state_dir, settings.history)
        self.alerts: list[AlertView] = []
        self._views = Views(self.client.fleet, whole_latents(settings.codecs))
        self._probe = ProcessProbe("gateway", settings.name, _belongings(broker, settings), metrics.metrics)
        self._book = AlertBook(settings.alerts.rules)
        self._modes = AlertModes(self.client.fleet, sites or {})
        self.system = SystemAlerts(self.client.fleet, settings.alerts.patience_s, settings.alerts.missed_share)
        self._gaps: list[GapView] = []
        self._told: dict[tuple[Principal, str], str] = {}
        self._last_heard: float | None = None
        self._changes: asyncio.Queue[Change] = asyncio.Queue(MAX_CHANGES)
        self._numbers: dict[str, int] = {}
        self._unstored = 0
        self._connections: asyncio.Queue[ConnectionChange] = asyncio.Queue()
        self.tick_s = TICK_S
        self._noted_s = float("-inf")
        self._modes_known_s = float("inf")
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        self._containment = Containment(_log)
        metrics.watch(self)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hear the fleet while the context lasts.

        Raises:
            HistoryError: the history can be neither read nor replaced.
            LatentbusError: the connection ended for good.
        """
        await self.store.open()
        try:
            await self._restore()
            async with self.client:
                self._tasks = [
                    asyncio.create_task(self._hear(), name="hear"),
                    asyncio.create_task(self._ticks(), name="ticks"),
                    asyncio.create_task(self._note_gaps(), name="gaps"),
                    asyncio.create_task(self._tell_alerts(), name="alerts"),
                    asyncio.create_task(self._probe.run(), name="disks"),
                    asyncio.create_task(self._metrics.lag.run(), name="loop lag"),
                ]
                if self.home_assistant is not None:
                    self._tasks.append(asyncio.create_task(self.home_assistant.run(), name="home assistant"))
                try:
                    yield
                finally:
                    self.stop_streams()
                    for task in self._tasks:
                        task.cancel()
                    await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            await self.store.close()

    async def failed(self) -> None:
        """Wait, for ever in the best case, until a part of it ends on its own.

        Raises:
            LatentbusError: why it did.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def reconfigure(self, settings: GatewaySettings, sites: Mapping[str, SiteProfiles]) -> None:
        """Other rules and profiles; alerts whose rule is gone end.

        Raises:
            ConfigError: something else has changed, which needs a restart.
        """
        if changed := cold_changes(self._settings, settings, HOT):
            raise ConfigError(", ".join(f"gateway.{key}" for key in changed), "takes effect after a restart")
        self._settings = settings
        self._book.replace(settings.alerts.rules)
        self._modes.sites = sites

    def stop_streams(self) -> None:
        """The process ends: whoever listens is told."""
        self._stopped = True
        self.hub.close("stopping")

    # ---- asking -----------------------------------------------------------------------------------------------------

    async def ask(self, request: AskRequest) -> AsyncGenerator[AnswerView, None]:
        """Ask a camera: the answers as they improve, then the final one.

        Args:
            request: the question.

        Raises:
            ConflictError: a question of this id has no outcome yet.
            UnavailableError: the broker is not connected, or the gateway stops.
            LatentbusError: it has no outcome, see :meth:`latentbus.client.client.Client.ask`.
        """
        if self._stopped:
            raise UnavailableError("the gateway stops", retry_after_s=5.0)
        if not self.client.connected:
            raise UnavailableError("the broker is not connected", retry_after_s=2.0)
        began_s = self._now_s()
        message = ask_of(
            request.question,
            request.answer_type,
            deadline_s=request.deadline_s,
            query_id=request.id,
            options=request.options,
            ago_s=request.ago_s,
            frame=request.frame,
        )
        query_id = ad_hoc_query_id(request.camera, self.client.name, message.query_id)
        if request.id is not None:
            known = await self.store.request(History.find, query_id)
            if known is not None:
                yield known
                return
        self.store.remember_text(query_id, request.question)
        answers = self.client.follow(request.camera, message)
        try:
            async for told in answers:
                elapsed_s = self._now_s() - began_s
                view = self._views.answer(told, self._wall_s(), request.question)
                self._metrics.answered(view, elapsed_s)
                yield view.model_copy(update={"elapsed_ms": round(1000 * elapsed_s)})
        except StateError:
            raise ConflictError(f"question {message.query_id} to camera {request.camera} has no outcome yet") from None
        finally:
            await answers.aclose()

    # ---- listening --------------------------------------------------------------------------------------------------

    def subscribe(self, principal: Principal) -> Subscriber:
        """Listen: everything first, then what changes."""
        return self.hub.subscribe(principal, RETRY_HINT + encoded("snapshot", _json(self.snapshot(principal))))

    def snapshot(self, principal: Principal) -> Snapshot:
        """Everything that somebody may see."""
        now_s, seen = self._now_s(), principal.cameras
        return Snapshot(
            now=self._wall_s(),
            cameras=self.state.cameras(seen or None),
            sites=self.state.sites(now_s, seen),
            workers=self.state.workers(seen),
            alerts=tuple(self.alerts_seen_by(principal)),
            gaps=tuple(self._gaps),
            health=self.health(),
            session=principal.view(),
        )

    def alerts_seen_by(self, principal: Principal) -> list[AlertView]:
        """The latest alerts that somebody may see, those that go on first."""
        return [alert for alert in self.alerts if principal.sees(alert.camera)]

    def health(self) -> HealthView:
        """Whether it does its work, and why not."""
        problems = []
        if not self.client.connected:
            problems.append("the broker is not connected")
        if self.store.problem is not None:
            problems.append(f"outcomes are not stored: {self.store.problem}")
        if self._stopped:
            problems.append("the gateway stops")
        return HealthView(ready=not problems, problems=tuple(problems))

    @property
    def contained(self) -> Mapping[str, int]:
        """Bugs that ended one message, by kind."""
        return self._containment.counts

    def queues(self) -> dict[str, float]:
        """What waits, for the metrics."""
        return {"alerts": self._changes.qsize(), "questions": self.client.unfinished()}

    # ---- hearing ----------------------------------------------------------------------------------------------------

    async def keep(self, messages: Sequence[Told]) -> None:
        """Store outcomes; see :class:`latentbus.client.client.Keeper`."""
        own = owner_of("client", self.client.name)
        texts = await self.store.texts([message.query_id for message in messages if message.owner == own])
        now_s = self._wall_s()
        await self.store.add([self._views.answer(one, now_s, texts.get(one.query_id)) for one in messages])

    def connection(self, change: ConnectionChange) -> None:
        """The broker came or went; see :class:`latentbus.client.client.Keeper`."""
        self._probe.connection(change)
        self._modes_known_s = self._now_s() + SETTLE_S if change.connected else float("inf")
        self._connections.put_nowait(change)

    async def _hear(self) -> None:
        async for told in self.client.watch():
            with self._containment.around("answer"):
                view = self._views.answer(told, self._wall_s(), self.store.text(told.query_id))
                self._metrics.heard(told)
                self.state.observe(view, self._now_s())
                self.system.heard(view.site, view.outcome, view.reason, self._now_s(), late=view.late)
                self.hub.publish("answer", _json(view), camera=view.camera)
                if view.outcome is not None:
                    self._apply(self._book.observe(view, self._now_s(), self._modes.counts))

    async def _ticks(self) -> None:
        trimmed_s = self._now_s()
        while True:
            await asyncio.sleep(self.tick_s)
            with self._containment.around("tick"):
                await self.tick()
                if self._now_s() - trimmed_s >= TRIM_S:
                    trimmed_s = self._now_s()
                    await self._trim()

    async def _trim(self) -> None:
        try:
            await self.store.request(History.trim)
        except UnavailableError as error:
            _log.warning("the history was not trimmed", problem=error.problem)

    async def tick(self) -> None:
        """Tell what has changed of the fleet, and judge what lasts."""
        if self.client.connected and self._now_s() - self._noted_s >= HEARD_S:
            self._noted_s = self._now_s()
            try:
                await self.store.request(History.heard)
            except UnavailableError as error:
                _log.debug("not noted", problem=error.problem)
        self._apply(self._book.expire(self._now_s(), self._wall_s()))
        if self._now_s() >= self._modes_known_s:
            self._apply(self._book.end_unless(self._modes.counts, self._wall_s()))
        if self._settings.alerts.system and self.client.connected:
            self._judge_states()
        self._tell_fleet()

    def _judge_states(self) -> None:
        wall_s = self._wall_s()
        _, uptime_s = self._probe.clock()
        self._apply(self.system.judge(self._probe.signs(wall_s, uptime_s), self._now_s(), wall_s))

    def _tell_fleet(self) -> None:
        now_s, health = self._now_s(), self.health()
        listening = self.hub.principals()
        for principal in listening:
            update = FleetUpdate(
                sites=self.state.sites(now_s, principal.cameras),
                workers=self.state.workers(principal.cameras),
                gaps=tuple(self._gaps),
                health=health,
            )
            cameras = CamerasUpdate(cameras=self.state.cameras(principal.cameras or None, questions=False))
            for event, view in (("fleet", update), ("cameras", cameras)):
                data = _json(view)
                if self._told.get((principal, event)) != data:
                    self._told[principal, event] = data
                    self.hub.publish_to(principal, event, data)
        self._told = {key: data for key, data in self._told.items() if key[0] in listening}

    # ---- alerts -----------------------------------------------------------------------------------------------------

    def _apply(self, changes: Sequence[Change]) -> None:
        """Store and tell alerts, later: hearing waits for no disk."""
        for change in changes:
            if self._changes.full():
                dropped = self._changes.get_nowait()
                _log.error("an alert was dropped: too many wait for the disk", rule=dropped.alert.rule)
            self._changes.put_nowait(change)

    async def _tell_alerts(self) -> None:
        while True:
            change = await self._changes.get()
            with self._containment.around("alert"):
                await self._tell_alert(change)

    async def _tell_alert(self, change: Change) -> None:
        alert = change.alert
        try:
            if alert.ended is None:
                alert = await self.store.request(History.add_alert, alert)
            else:
                # One that ended before it was stored has its number by now.
                alert = alert.model_copy(update={"id": alert.id or self._numbers.pop(change.key, 0)})
                await self.store.request(History.end_alert, alert)
        except UnavailableError as error:
            _log.error("an alert is not stored", rule=alert.rule, problem=error.problem)
            if not alert.id:
                self._unstored -= 1
                alert = alert.model_copy(update={"id": self._unstored})
        if alert.ended is None:
            self._numbers[change.key] = alert.id
            self._book.stored(change.key, alert)
            self.system.stored(change.key, alert)
        else:
            self._numbers.pop(change.key, None)
        self._metrics.alert(alert)
        rest = [known for known in self.alerts if known.id != alert.id]
        self.alerts = sorted([alert, *rest], key=lambda one: (one.ended is not None, -one.id))[:SHOWN_ALERTS]
        self.hub.publish("alert", _json(alert), camera=alert.camera)
        if change.notify and not self._modes.is_snoozed(alert.rule, alert.site, alert.camera, self._wall_s()):
            self._notifier.tell(alert, change.channels)

    # ---- what was missed --------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        self.state.restore(await self.store.call(History.latest, STRIP, RESTORED_ROWS))
        self._gaps = await self.store.call(History.gaps, SHOWN_GAPS)
        self._last_heard = await self.store.call(History.last_heard)
        self.alerts = await self.store.call(History.alerts, SHOWN_ALERTS)
        going_on = [alert for alert in self.alerts if alert.ended is None]
        now_s, wall_s = self._now_s(), self._wall_s()
        self.system.resume([alert for alert in going_on if alert.source == "system"], now_s)
        for change in self._book.resume([alert for alert in going_on if alert.source == "answer"], now_s, wall_s):
            self._apply([Change(change.alert.model_copy(update={"ended": self._wall_s()}), "", notify=False)])

    async def _note_gaps(self) -> None:
        while True:
            change = await self._connections.get()
            with self._containment.around("gap"):
                if not change.connected:
                    self._last_heard = self._wall_s()
                    self.system.health.deaf()
                elif self._last_heard is not None:
                    await self._note_gap(self._last_heard, self._wall_s(), change.session_resumed)
                    self._last_heard = None
                self._tell_fleet()

    async def _note_gap(self, began: float, ended: float, kept: bool) -> None:
        if ended <= began or (kept and ended - began < SHORT_GAP_S):
            return
        reason = (
            "the broker has kept the outcomes, as many as its queue holds"
            if kept
            else "the broker has kept nothing: the outcomes of this time are missing here"
        )
        gap = GapView(began=began, ended=ended, kept=kept, reason=reason)
        self._gaps = [gap, *self._gaps][:SHOWN_GAPS]
        _log.warning("the broker was not heard", seconds=round(ended - began, 1), kept=kept)
        try:
            await self.store.request(History.add_gap, gap)
        except UnavailableError as error:
            _log.error("a gap is not stored", problem=error.problem)


def _belongings(broker: BrokerSettings, settings: GatewaySettings) -> Belongings:
    certificates = dict(belongings_of(broker, None, None).certificates)
    if settings.tls is not None:
        certificates["https"] = settings.tls.cert_file
    return Belongings({"state_dir": settings.state_dir}, certificates)


def _json(view: BaseModel) -> str:
    return json_line(view.model_dump(mode="json"))
