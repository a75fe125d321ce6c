"""What ``deploy`` has for Prometheus and Grafana, as tests read it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "latentbus.json"
_COMPARISON = re.compile(r" (==|!=|>=|<=|>|<) ")


def _rules(file: str) -> list[dict[str, Any]]:
    parsed = yaml.safe_load((PROMETHEUS / file).read_text(encoding="utf-8"))
    return [rule for group in parsed["groups"] for rule in group["rules"]]


def recorded() -> dict[str, str]:
    """Expressions of the recording rules, by name."""
    return {rule["record"]: rule["expr"] for rule in _rules("rules.yml")}


def alerts() -> list[dict[str, Any]]:
    """The alerts, as they stand in their file."""
    return _rules("alerts.yml")


def panels() -> list[tuple[str, str]]:
    """Title and expression of each target of each panel."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]


def as_judgement(expression: str) -> str:
    """An alert's expression that says 0 or 1 where the alert would say nothing or something."""
    return _COMPARISON.sub(r" \1 bool ", expression)


def with_variables(expression: str) -> str:
    """A panel's expression with what Grafana fills in."""
    return expression.replace("$__rate_interval", "1m").replace("$site", ".*")
