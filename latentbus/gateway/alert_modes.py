"""Which alerts count and of which people are told: profiles of the settings, and what operators say about each site."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.config.alert_rules import SiteProfiles
from pipeline.protocol.fleet_view import FleetView
from schemas.utc_time import utc_seconds


class AlertModes:
    """What holds at each site.

    Args:
        fleet: what operators say about sites.

    Attributes:
        sites: profiles of the sites that the settings know.
    """

    def __init__(self, fleet: FleetView, sites: Mapping[str, SiteProfiles]) -> None:
        self.sites = sites
        self._fleet = fleet

    def counts(self, rule: str, site: str | None) -> bool:
        """Whether a rule is judged at a site."""
        profiles = self.sites.get(site or "")
        if profiles is None:
            return True
        config = self._fleet.configs.get(site or "")
        said = None if config is None else config.profile
        alerts = profiles.alerts.get((said if said in profiles.alerts else profiles.profile) or "")
        return alerts is None or name_of(rule) in alerts

    def is_snoozed(self, rule: str, site: str | None, camera: str | None, wall_s: float) -> bool:
        """Whether nobody is told of an alert.

        Args:
            rule: its rule.
            site: its site.
            camera: its camera.
            wall_s: seconds since 1970.
        """
        config = self._fleet.configs.get(site or "")
        if config is None:
            return False
        untils = (config.snoozed_alerts.get(name_of(rule)), config.snoozed_cameras.get(camera or ""))
        return any(wall_s < utc_seconds(until) for until in untils if until is not None)


def name_of(rule: str) -> str:
    """What a person calls the alert of a question at its site; any other has the name of its rule."""
    return rule.rpartition("/")[2]
