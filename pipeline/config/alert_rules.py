"""The rules of a gateway: its own, and the alerts that stand with the questions of the fleet."""

from __future__ import annotations

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


def with_question_alerts(gateway: GatewaySettings, settings: LatentbusSettings) -> GatewaySettings:
    """The settings of a gateway, with the alerts of the questions of its file among its rules."""
    rules = {**gateway.alerts.rules, **question_alerts(settings)}
    return gateway.model_copy(update={"alerts": gateway.alerts.model_copy(update={"rules": rules})})
