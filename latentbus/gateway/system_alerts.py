"""Alerts about the fleet itself: what :mod:`pipeline.health` finds becomes alerts that are stored, shown and sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from latentbus.gateway.alerts import Change
from latentbus.gateway.models import AlertView
from pipeline.health.conditions import HealthKind, Sign, Subject, advice_of, severity_of, text_of
from pipeline.health.fleet import FleetHealth
from pipeline.health.machine import HealthMachine
from pipeline.protocol.fleet_view import FleetView
from schemas.types import Outcome

_CAMERA_KINDS: Final = (HealthKind.CAMERA_STALLED, HealthKind.CAMERA_COVERED)
_POOL_KINDS: Final = (HealthKind.POOL_EMPTY, HealthKind.CODEC_MISMATCH, HealthKind.BACKLOG_GROWING)


class SystemAlerts:
    """The conditions of a fleet, as alerts.

    Args:
        fleet: what the statuses say.
        patience_s: see :class:`~pipeline.health.machine.HealthMachine`.
        missed_share: of the questions, what may miss its deadline.

    Attributes:
        machine: decides when a condition begins and ends.
        health: what is judged.
    """

    def __init__(self, fleet: FleetView, patience_s: float, missed_share: float) -> None:
        self.machine = HealthMachine(patience_s)
        self.health = FleetHealth(fleet, missed_share)
        self._firing: dict[str, AlertView] = {}

    def resume(self, going_on: Iterable[AlertView], now_s: float) -> None:
        """Take over what an earlier process has begun.

        Args:
            going_on: system alerts that it has not ended.
            now_s: monotonic time.
        """
        for alert in going_on:
            sign = _sign_of(alert)
            self.machine.resume(sign, now_s)
            self._firing[_key(sign)] = alert

    def stored(self, key: str, alert: AlertView) -> None:
        """An alert that has begun got its number."""
        if key in self._firing and self._firing[key].began == alert.began:
            self._firing[key] = alert

    def heard(self, site: str | None, outcome: Outcome | None, reason: str, now_s: float, *, late: bool) -> None:
        """An answer or outcome came; see :meth:`FleetHealth.heard`."""
        self.health.heard(site, outcome, now_s, reason=reason, late=late)

    def judge(self, own: Iterable[Sign], now_s: float, wall_s: float) -> list[Change]:
        """Look at the fleet once.

        Args:
            own: what is known of this process.
            now_s: monotonic time.
            wall_s: seconds since 1970.

        Returns:
            Alerts that begin or end.
        """
        changes = []
        for change in self.machine.observe([*self.health.signs(now_s), *own], now_s):
            sign, key = change.sign, _key(change.sign)
            if change.begins:
                self._firing[key] = alert = _alert_of(sign, wall_s)
                changes.append(Change(alert, key))
            elif (firing := self._firing.pop(key, None)) is not None:
                changes.append(Change(firing.model_copy(update={"ended": wall_s}), key))
        return changes

    def going_on(self) -> list[Sign]:
        """What is wrong now."""
        return self.machine.going_on()

    def sizes(self) -> dict[str, int]:
        """Entries of its tables."""
        return {"conditions": len(self.machine), **self.health.sizes()}


def _key(sign: Sign) -> str:
    return "system " + "\n".join(sign.key)


def _alert_of(sign: Sign, wall_s: float) -> AlertView:
    return AlertView(
        id=0,
        rule=sign.kind,
        source="system",
        severity=severity_of(sign),
        subject=sign.subject,
        site=sign.name,
        camera=sign.part if sign.kind in _CAMERA_KINDS else None,
        part=sign.part,
        text=f"{text_of(sign)}. {advice_of(sign)}",
        began=wall_s,
    )


def _sign_of(alert: AlertView) -> Sign:
    """The sign that an alert was made of."""
    guessed: Subject = "pool" if alert.rule in _POOL_KINDS else "site"
    return Sign(alert.rule, alert.subject or guessed, alert.site or "", part=alert.part, severity=alert.severity)
