"""Tables of the documents that nobody generates hold what the code has: metrics, settings, pages of figures."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from latentbus.cli import app
from pipeline.config import (
    broker_settings,
    camera_settings,
    edge_settings,
    gateway_settings,
    question_settings,
    recording_settings,
    serving_settings,
    worker_settings,
)
from pipeline.config import settings as all_settings
from pipeline.config.alert_settings import AlertConditionSettings
from pipeline.config.asking_settings import ProfileSettings
from pipeline.health.conditions import EXPLANATIONS, HealthKind
from tests import reference
from tests.reference.commands import all_commands
from tests.source_names import PACKAGES, ROOT, parse

DOCS = reference.DOCS
RESULTS = DOCS / "results"
results = pytest.mark.parametrize(
    "path", [path for path in sorted(RESULTS.glob("*.md")) if path.name != "README.md"], ids=lambda path: path.stem
)

METRIC_TYPES = {
    "counter": "counter",
    "watch_counters": "counter",
    "gauge": "gauge",
    "watch_gauge": "gauge",
    "watch_gauges": "gauge",
    "seconds": "histogram",
    "shares": "histogram",
    "amounts": "histogram",
}
"""Methods of ``pipeline.node.metrics.Metrics``, and what they make."""
METRIC_ROOMS = {"edge_nodes": "an edge", "cloud_workers": "a worker", "latentbus": "the gateway"}


def metrics_of_the_code() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Type, labels and processes of each metric; what an f-string fills in of a name is ``*``."""
    found: dict[str, tuple[str, tuple[str, ...], str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(parse(path)):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                    continue
                if node.func.attr in METRIC_TYPES and re.search(r"(metrics|^self)$", ast.unparse(node.func.value)):
                    room = METRIC_ROOMS.get(package, "every process")
                    name = name_of(node.args[0])
                    kept = found.setdefault(name, (METRIC_TYPES[node.func.attr], labels_of(node.func.attr, node), room))
                    assert kept[:2] == (METRIC_TYPES[node.func.attr], labels_of(node.func.attr, node)), name
    return found


def labels_of(maker: str, call: ast.Call) -> tuple[str, ...]:
    """Names of the labels that a metric is made with."""
    index = 3 if maker == "amounts" else 2
    if maker == "watch_gauge" or len(call.args) <= index:
        return ()
    labels = ast.literal_eval(call.args[index])
    return (labels,) if isinstance(labels, str) else tuple(labels)


def name_of(argument: ast.expr) -> str:
    """A string, or a string with parts that are filled in."""
    if isinstance(argument, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in argument.values)
    assert isinstance(argument, ast.Constant), ast.unparse(argument)
    return str(argument.value)


def section_of(path: Path, heading: str) -> str:
    """The text below a heading, up to the next one."""
    return path.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2].partition("\n#")[0]


def first_cells(text: str) -> Iterator[str]:
    """What is in code marks in the first cell of each row."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield from re.findall(r"`([^`]+)`", re.split(r"(?<!\\)\|", line)[1])


def test_the_tables_of_metrics_are_those_of_the_code() -> None:
    served = metrics_of_the_code()
    patterns = {name: re.compile(name.replace("*", r"\w+")) for name in served}
    documented = {}
    for room in ("every process", *METRIC_ROOMS.values()):
        for line in section_of(DOCS / "metrics.md", f"### Of {room}").splitlines():
            if line.startswith("| `"):
                name, kind, labels, meaning = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:5])
                assert len(meaning) > 3, name
                documented[name.strip("`")] = (kind, tuple(re.findall(r"`(\w+)`", labels)), room)

    assert len(documented) > 60
    for name, row in documented.items():
        code = [served[pattern] for pattern in served if patterns[pattern].fullmatch(name)]
        assert code == [row], name
    assert {name for name in served if "*" not in name} - set(documented) == set(), "not in docs/metrics.md"


def test_metrics_are_named_by_convention() -> None:
    for name, (kind, labels, _) in metrics_of_the_code().items():
        assert re.fullmatch(r"[a-z*][a-z0-9_*]*", name), name
        assert not name.endswith(("_total", "_count", "_sum", "_bucket", "_ms", "_s", "_mb", "_kb")), name
        assert not set(labels) & {"le", "quantile", "job", "instance"}, name
        if kind == "histogram":
            assert name.endswith(("_seconds", "_bytes", "_frames", "_latents", "_share")), name


def test_the_table_of_conditions_is_that_of_the_code() -> None:
    rows = set(first_cells((DOCS / "health.md").read_text(encoding="utf-8")))
    assert rows == {str(kind) for kind in HealthKind} == {str(kind) for kind in EXPLANATIONS}


SECTIONS: dict[str, type[BaseModel]] = {
    "## `broker`": broker_settings.BrokerSettings,
    "### `broker.tls`": broker_settings.TlsSettings,
    "## `edge`": edge_settings.EdgeSettings,
    "### `edge.cameras.<name>`": camera_settings.CameraSettings,
    "### `edge.questions.<id>`": question_settings.QuestionSettings,
    "### `edge.profiles.<name>`": ProfileSettings,
    "### `edge.questions.<id>.alert`": AlertConditionSettings,
    "### `edge.client_budget`, `edge.client_budgets.<client>`": edge_settings.ClientBudgetSettings,
    "## `worker`": worker_settings.WorkerSettings,
    "### `worker.vllm`": serving_settings.VllmSettings,
    "### `worker.more_pools.<name>`": worker_settings.MorePoolSettings,
    "## `gateway`": gateway_settings.GatewaySettings,
    "### `gateway.tls`": gateway_settings.GatewayTlsSettings,
    "### `gateway.tokens.<name>`": gateway_settings.TokenSettings,
    "### `gateway.history`": gateway_settings.HistorySettings,
    "### `gateway.limits`": gateway_settings.GatewayLimitSettings,
    "### `gateway.alerts`": gateway_settings.AlertSettings,
    "### `gateway.alerts.webhooks.<name>`": gateway_settings.WebhookSettings,
    "## `recording`": recording_settings.EdgeRecordingSettings,
    "## `log`": all_settings.LogSettings,
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_keys_and_defaults_of_settings_are_those_of_the_code(heading: str) -> None:
    rows = [re.split(r"(?<!\\)\|", line)[1:3] for line in section_of(DOCS / "configuration.md", heading).splitlines()
            if line.startswith("| `")]  # fmt: skip
    documented = {key.strip(" `"): default.strip() for key, default in rows}
    model = SECTIONS[heading]
    fields = {field.alias or name: field for name, field in model.model_fields.items()}

    assert documented.keys() == fields.keys()
    for key, field in fields.items():
        default = documented[key]
        value = field.get_default(call_default_factory=True)
        if default.startswith("`"):
            assert yaml.safe_load(default.strip("`")) == value, key
        else:
            assert (default == "required") is (value is PydanticUndefined), key
            assert default == "required" or not value or isinstance(value, BaseModel), key


@results
def test_a_page_of_figures_names_its_command_date_and_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head, _, _ = text.partition("\n\n- Command:")
    commands = re.findall(r"^- Command: `([^`]+)`$", text, re.MULTILINE)
    known = {name for name, _ in all_commands(typer.main.get_command(app))}

    assert re.fullmatch(r"# .+\n\n<!-- figures: .* -->", head)
    assert commands
    for command in commands:
        words = command.split()
        if words[0] == "python":
            assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").is_file(), command
        else:
            assert words[0] == "latentbus"
            assert {words[1], " ".join(words[1:3])} & known, command
    assert re.search(r"^- Measured: 20\d\d-\d\d-\d\d\b.*(commit [0-9a-f]{7}|version)", text, re.MULTILINE)
    assert re.search(r"^- Machine: \d+ cores", text, re.MULTILINE)


def test_every_page_of_figures_is_in_the_list_and_linked_from_the_prose() -> None:
    pages = {path.name for path in RESULTS.glob("*.md")} - {"README.md"}
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (RESULTS / "README.md").read_text(encoding="utf-8")))
    prose = "".join(path.read_text(encoding="utf-8") for path in reference.documents() if path.parent != RESULTS)

    assert listed == pages
    assert {page for page in pages if f"results/{page}" not in prose} == set()


@pytest.mark.parametrize(("page", "most"), [("glossary.md", 40), ("protocol.md", 300)])
def test_pages_for_newcomers_stay_short(page: str, most: int) -> None:
    assert len((DOCS / page).read_text(encoding="utf-8").splitlines()) <= most
