"""The documents say what the code does."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

import pipeline.config.edge_settings
import pipeline.config.settings
from broker_config.limits import MAX_PACKET_BYTES
from pipeline.bus.base import QueueLimits
from pipeline.protocol.settings import WorkerProtocolSettings
from schemas import export
from schemas.messages import RejectReason
from tests import reference, source_names
from tests.reference import protocol
from tests.source_names import PACKAGES, ROOT

DOCS = reference.DOCS
BUFFERS = (DOCS / "buffers.md").read_text(encoding="utf-8")
documents = pytest.mark.parametrize(
    "path", reference.documents(), ids=[str(path.relative_to(ROOT)) for path in reference.documents()]
)

DOTTED = re.compile(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`")
BOUND = re.compile(r"`([\w.]+)` = ([\d.,]*\d)")
REPOSITORY_PATH = re.compile(r"`([\w.-]+/(?:[\w.-]+/?)*)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

LIMIT_NAME = re.compile(r"_?(MAX_\w+|KNOWN_\w+|CONCURRENT_\w+|\w+_WINDOW|\w+_LIMITS?|\w+_BATCH)(?<!_S)(?<!_MS)")
"""What bounds a buffer is called so; names that end in a unit of time bound a wait."""
NOT_BUFFERS = {
    "schemas.limits": "listed in protocol-reference.md",
    "pipeline.scenes": "geometry of rendered scenes",
    "pipeline.codec": "alphabet of the bitstream",
    "simulation": "runs in tests and benchmarks",
    "schemas.wire_cost": "constants of MQTT and TCP",
    "pipeline.bus.mqtt_terms.MAX_PACKET_BYTES": "constant of MQTT",
    "cloud_workers.inference.generation._MAX_ANSWER_BYTES": "largest value of a field, in protocol-reference.md",
    "training": "runs once, at the operator's command",
    "latentbus.demo.evaluation.MAX_COMPARED_FRAMES": "sample size of a report",
    "latentbus.logs.compare_report.MAX_CHANGES": "rows of a report",
    "latentbus.logs.compare_plots._MAX_BARS": "lines of a plot",
    "pipeline.recording.stored_latent.MAX_STORED_LATENT_BYTES": "one message of a log, refused by its reader",
    "schemas.problems.MAX_ECHO_CHARS": "length of an error message",
    "latentbus.demo.headline.MAX_REFINEMENTS": "lines of a demo",
    "analysis.version_one": "limits of wire version 1, for reading old logs",
    "pipeline.protocol.worker_messages._MAX_PASSES": "range of a field",
    "schemas.types.MAX_ATTEMPTS": "range of a field",
    "pipeline.config.worker_settings.MAX_BATCH_FRAMES": "range of a setting",
    "pipeline.config.edge_settings.MAX_UPLINK_KBPS": "range of a setting",
    "pipeline.config.edge_settings.MAX_BUDGET_MB": "range of a setting",
    "pipeline.codec.spec.MAX_VLM_ID_CHARS": "length of a name in codec.json",
    "pipeline.config.settings_file._MAX_PROBLEMS": "length of an error message",
}
"""Limits in the source that are no bound of a buffer in a running process, and what they are instead."""

MAX_COLUMNS = 120


@documents
def test_generated_parts_are_current(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert reference.refreshed(text) == text, "write them with: python -m tests.reference"


@pytest.mark.parametrize("begin", protocol.REASONS)
def test_reasons_of_outcomes_are_those_of_the_code(begin: str) -> None:
    """Either the words stand in the code, or they are the name of a reason why a worker rejects a frame."""
    rejections = {reason.name.lower().replace("_", " ") for reason in RejectReason}
    texts = {
        text
        for package in ("schemas", "pipeline", "edge_nodes")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(source_names.parse(path))
        if isinstance(node, ast.Constant) and isinstance(text := node.value, str) and len(text) < 200
    }

    assert begin in rejections or any(text.startswith(begin) for text in texts)


def test_every_generated_part_stands_in_one_place() -> None:
    used = [name for path in reference.documents() for name in reference.sections_in(path.read_text(encoding="utf-8"))]

    assert sorted(used) == sorted(reference.SECTIONS)


def test_refreshing_replaces_what_is_stale_and_nothing_else() -> None:
    stale = "before\n<!-- generated: limits -->\nold\n<!-- /generated -->\nafter\n"

    fresh = reference.refreshed(stale)

    assert fresh.startswith("before\n<!-- generated: limits -->\n")
    assert fresh.endswith("<!-- /generated -->\nafter\n")
    assert "\nold\n" not in fresh
    assert protocol.limits_table() in fresh


def test_asyncapi_document_is_current() -> None:
    assert reference.ASYNCAPI.read_text(encoding="utf-8") == export.render(), "write it with: python -m tests.reference"


@documents
def test_names_of_code_exist(path: Path) -> None:
    names = DOTTED.findall(path.read_text(encoding="utf-8"))

    assert [name for name in names if source_names.find(name) is None] == []


@documents
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def too_wide(text: str) -> list[str]:
    """Lines of more than 120 columns that could have been broken: tables cannot, nor can one long word."""
    return [
        line
        for line in text.splitlines()
        if len(line) > MAX_COLUMNS and not line.startswith("|") and len(line.split()) > 1
    ]


@documents
def test_lines_are_at_most_120_columns(path: Path) -> None:
    assert too_wide(path.read_text(encoding="utf-8")) == []


def test_tables_and_addresses_may_be_wide() -> None:
    address = "https://example.org/" + "a" * MAX_COLUMNS
    text = "\n".join(["| " + "cell | " * MAX_COLUMNS, f"  {address}", f"see {address}", "a " * 60, "b " * 60 + "b"])

    assert too_wide(text) == [f"see {address}", "b " * 60 + "b"]


def test_contributing_names_what_is_there_and_what_would_be_new() -> None:
    """Paths with a slash; the middle column of the changes names files that each of them would add."""
    prose, _, changes = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n| change | new | touched |\n")
    )
    rows = [line.split("|")[1:-1] for line in changes.splitlines()[1:]]
    new = [path for _, added, _ in rows for path in REPOSITORY_PATH.findall(added)]
    touched = [path for text in (prose, *(row[-1] for row in rows)) for path in REPOSITORY_PATH.findall(text)]

    assert len(rows) == 10
    assert [path for path in touched if not (ROOT / path).exists()] == []
    assert [path for path in new if (ROOT / path).exists()] == [], "it is there now: say what it touched"


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_bounds_of_buffers_are_those_of_the_code() -> None:
    bounds = BOUND.findall(BUFFERS)

    assert len(bounds) > 30
    for name, number in bounds:
        expected = float(number.replace(",", ""))
        assert source_names.value(name) == pytest.approx(expected), name


def test_every_limit_of_the_code_is_listed() -> None:
    missing = [
        name
        for package in PACKAGES
        for name in source_names.constants(package)
        if LIMIT_NAME.fullmatch(name.rpartition(".")[2])
        and not any(name == exempt or name.startswith(f"{exempt}.") for exempt in NOT_BUFFERS)
        and f"`{name}`" not in BUFFERS
    ]

    assert missing == [], "list them in docs/buffers.md, or say above what they are instead"


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ("pipeline.bus.base.QueueLimits", r"\w+_(messages|bytes)"),
        ("pipeline.protocol.settings.EdgeProtocolSettings", r"max_frames\w*|\w*cache"),
        ("pipeline.protocol.settings.WorkerProtocolSettings", r"capacity\w*|\w*cache"),
        ("pipeline.protocol.settings.ClientProtocolSettings", r"max_\w+|\w*cache"),
        ("pipeline.config.worker_settings.WorkerSettings", r"max_batch\w*"),
    ],
)
def test_every_bound_of_a_settings_class_is_listed(settings: str, pattern: str) -> None:
    node = source_names.find(settings)
    assert isinstance(node, ast.ClassDef)
    fields = [name for child in node.body for name in source_names.names_of(child) if re.fullmatch(pattern, name)]

    assert fields
    assert [field for field in fields if f"`{settings}.{field}`" not in BUFFERS] == []


@pytest.mark.parametrize("exempt", NOT_BUFFERS)
def test_exemptions_are_not_stale(exempt: str) -> None:
    assert source_names.find(exempt) is not None


def test_constants_are_read_as_python_reads_them() -> None:
    assert (
        source_names.value("pipeline.config.edge_settings.MAX_CAMERAS_PER_SITE")
        == pipeline.config.edge_settings.MAX_CAMERAS_PER_SITE
    )
    assert source_names.value("broker_config.limits.MAX_PACKET_BYTES") == MAX_PACKET_BYTES
    assert source_names.value("pipeline.bus.base.QueueLimits.packet_bytes") == QueueLimits().packet_bytes
    capacity = source_names.value("pipeline.protocol.settings.WorkerProtocolSettings.capacity_bytes")
    assert capacity == WorkerProtocolSettings().capacity_bytes
    with pytest.raises(LookupError):
        source_names.value("pipeline.config.settings.NO_SUCH_LIMIT")
    assert source_names.find("pipeline.config.edge_settings.EdgeSettings.no_such_key") is None


def settings_keys(model: type[BaseModel]) -> set[str]:
    """Every key that a settings file may have."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        found.add(field.alias or name)
        for annotation in re.findall(r"\b\w+Settings\b", repr(field.annotation)):
            found |= settings_keys(getattr(sys.modules[model.__module__], annotation))
    return found


def test_every_settings_key_is_documented() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    keys = settings_keys(pipeline.config.settings.LatentbusSettings)

    assert {"broker", "password", "ca_file", "interval_s", "capacity_frames", "json"} <= keys
    assert (
        sorted(key for key in keys if not re.search(rf"`(?:[\w.<>{{}}]+\.)?{key}`|^ *{key}:", text, re.MULTILINE)) == []
    )
