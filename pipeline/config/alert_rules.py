"""The rules of a gateway: its own, and the alerts that stand with the questions of the fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config.gateway_settings import AlertRuleSettings, GatewaySettings
from pipeline.config.settings import LatentbusSettings


def question_alerts(settings: LatentbusSettings) -> dict[str, AlertRuleSettings]:
    """The alerts of questions as rules, by ``{site}/{question}``, which is no name that a rule can have."""
    sites = [*settings.sites.values(), *([] if settings.edge is None else [settings.edge])]
    return {
        f"{site.site}/{question_id}": AlertRuleSettings(question=question_id, site=site.site, **dict(question.alert))
        for site in sites
        for question_id, question in site.questions.items()
        if question.alert is not None
    }


@dataclass(frozen=True, slots=True)
class SiteProfiles:
    """Which alerts count at a site.

    Attributes:
        alerts: of each profile, by question or rule; None for all.
        profile: the one that holds unless an operator says otherwise.
    """

    alerts: Mapping[str, frozenset[str] | None]
    profile: str | None = None


def site_profiles(settings: LatentbusSettings) -> dict[str, SiteProfiles]:
    """The profiles of each site of a file."""
    sites = [*settings.sites.values(), *([] if settings.edge is None else [settings.edge])]
    return {
        site.site: SiteProfiles(
            {name: None if entry.alerts is None else frozenset(entry.alerts) for name, entry in site.profiles.items()},
            site.profile,
        )
        for site in sites
    }


def with_question_alerts(gateway: GatewaySettings, settings: LatentbusSettings) -> GatewaySettings:
    """The settings of a gateway, with the alerts of the questions of its file among its rules."""
    rules = {**gateway.alerts.rules, **question_alerts(settings)}
    return gateway.model_copy(update={"alerts": gateway.alerts.model_copy(update={"rules": rules})})
