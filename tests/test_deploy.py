"""What is deployed beside the processes: rules, alerts, dashboard and manifests, held against code and documents."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentbus.commands.nodes import worker as worker_command
from pipeline.config.settings import LatentbusSettings
from pipeline.health.conditions import EXPLANATIONS, HealthKind
from pipeline.health.deadlines import MISSED_SHARE
from tests.prometheus import DASHBOARD, PROMETHEUS, alerts, panels, recorded
from tests.test_docs_tables import metrics_of_the_code

ROOT = Path(__file__).resolve().parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
NAME = re.compile(r"\blatentbus(?:_\w+|(?::\w+)+)")
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool of Prometheus is not installed")


def all_expressions() -> dict[str, str]:
    """Every expression of rules, alerts and panels, by what it is of."""
    return {
        **{f"rule {name}": expression for name, expression in recorded().items()},
        **{f"alert {rule['alert']}": rule["expr"] for rule in alerts()},
        **{f"panel {title}": expression for title, expression in panels()},
    }


def test_everything_that_is_queried_is_served() -> None:
    served = {
        f"latentbus_{name}{suffix}" for name, (kind, *_) in metrics_of_the_code().items() for suffix in SUFFIXES[kind]
    }
    known = served | set(recorded())
    for of, expression in all_expressions().items():
        names = set(NAME.findall(expression))
        assert names <= known, of
        assert names or "up{" in expression, of


def test_counters_are_queried_by_rate() -> None:
    for of, expression in all_expressions().items():
        for match in re.finditer(r"(\w+)\((latentbus_\w+_(?:total|bucket|sum|count))\b", expression):
            assert match[1] in ("rate", "increase"), of
        for name in re.findall(r"latentbus_\w+_total\b", expression):
            assert re.search(rf"(rate|increase)\({name}", expression), of


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"].endswith("."), rule["alert"]


def test_conditions_are_as_severe_in_prometheus_as_in_the_gateway() -> None:
    of = {rule["alert"]: rule["expr"] for rule in alerts()}
    (worst,) = re.findall(r'condition=~"([^"]+)"', of["LatentbusConditionCritical"])
    (rest,) = re.findall(r'condition!~"([^"]+)"', of["LatentbusCondition"])
    assert worst == rest
    assert set(worst.split("|")) == {str(kind) for kind in HealthKind if EXPLANATIONS[kind].severity == "critical"}


def test_deadlines_have_one_budget() -> None:
    for rule in alerts():
        if rule["alert"].startswith("LatentbusDeadlinesMissed"):
            assert rule["expr"].count(f"* {MISSED_SHARE:g}") == 2


@needs_promtool
def test_rules_and_alerts_do_what_they_should() -> None:
    for arguments in (
        ["check", "rules", "rules.yml", "alerts.yml"],
        ["test", "rules", "rules-test.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ):
        done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert (dashboard["uid"], dashboard["title"]) == ("latentbus", "Latentbus")
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    ids: set[int] = set()
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["id"] not in ids
        ids.add(panel["id"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        taken = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        cells |= taken
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
            used = {name for name in re.findall(r"\$(\w+)", target["expr"]) if not name.startswith("__")}
            assert used <= variables, panel["title"]


def test_manifests_are_valid_for_kubernetes(tmp_path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    documents = list(yaml.safe_load_all((KUBERNETES / "worker.yaml").read_text(encoding="utf-8")))
    assert [document["kind"] for document in documents] == [
        "ConfigMap",
        "Deployment",
        "Service",
        "PodDisruptionBudget",
    ]
    for document in documents:
        validate.validate(document, validate.latest_version(), strict=True)
    broken = {**documents[1], "spec": {**documents[1]["spec"], "replica": 2}}
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, validate.latest_version(), strict=True)


def manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((KUBERNETES / "worker.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


def test_what_is_scaled_is_the_deployment_by_a_recorded_series() -> None:
    (scaled,) = yaml.safe_load_all((KUBERNETES / "scaled-object.yaml").read_text(encoding="utf-8"))
    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    deployment = manifests()["Deployment"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"], "two would decide"
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert NAME.findall(trigger["metadata"]["query"])[0] in recorded()
    assert float(trigger["metadata"]["threshold"]) > 0


def test_a_worker_in_a_cluster_reads_its_settings_and_is_scraped_where_it_serves() -> None:
    found = manifests()
    settings = LatentbusSettings.model_validate(yaml.safe_load(found["ConfigMap"]["data"]["worker.yaml"]))
    assert settings.worker is not None
    pod = found["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["args"] == [worker_command.__name__, "--config", "/etc/latentbus/worker.yaml"]
    port = settings.worker.metrics_port
    assert [entry["containerPort"] for entry in container["ports"]] == [port]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    assert f":{port}/metrics" in (ROOT / "docker" / "healthcheck.py").read_text(encoding="utf-8")
    labels = pod["metadata"]["labels"].items()
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert found[kind]["spec"]["selector"]["matchLabels"].items() <= labels
    assert found["Service"]["spec"]["selector"].items() <= labels
