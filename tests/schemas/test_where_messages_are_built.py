"""Every place that builds a message of the wire, and why what it is built from cannot fail validation there.

A message that a process builds from input and that is none would be a bug of ours that a peer can call. Whoever adds a
place says here what bounds its fields, and tests it with input at those bounds.
"""

from __future__ import annotations

import ast

from schemas import messages
from schemas.messages import BINARY_MESSAGES, JSON_MESSAGES
from tests.source_names import PACKAGES, ROOT, parse

BUILT = {message.__name__ for message in (*BINARY_MESSAGES, *JSON_MESSAGES)}

PLACES: dict[str, str] = {
    "pipeline.protocol.edge_messages": "names and texts are those of messages and settings with the same types; "
    "attempts end at MAX_ATTEMPTS, remaining times at a day, ranges at the latent count, queries at 64; the encoder "
    "refuses latents that no message carries; reasons through as_reason (tests.protocol.test_message_bounds, "
    "tests.fuzz)",
    "pipeline.protocol.worker_messages": "names, frames and attempts are those of the open; leases and waits clamped, "
    "passes capped, scores checked and texts cut before; targets are rungs above the prefix; requests name texts; "
    "reasons through as_reason (tests.protocol.test_message_bounds, tests.fuzz)",
    "pipeline.protocol.change_gate": "the risk of a question, made smaller",
    "pipeline.protocol.event_fetches": "names and events of the request, counts and payloads of the file, which holds "
    "what the ring had; receipts through as_reason (tests.protocol.test_events)",
    "pipeline.protocol.ad_hoc_questions": "identities from the ask's topic, reasons through as_reason",
    "pipeline.protocol.ask_intake": "receipts: ids that have the form of a name, reasons through as_reason",
    "pipeline.protocol.question_sync": "of a deletion a name",
    "pipeline.protocol.receipts": "ids from the topic, or fixed; reasons through as_reason",
    "pipeline.protocol.edge_reports": "of a deletion the name of the site",
    "pipeline.protocol.standing_questions": "a question of the settings, which has the types of the message, paused",
    "pipeline.protocol.edge_status": "status: at most MAX_CAMERAS_PER_SITE cameras by the type of settings and plans "
    "(tests.analysis.test_replay_plan)",
    "edge_nodes.session_settings": "questions of the settings, which have the types of the message",
    "pipeline.node.ask_journal": "a row of the disk: what fails is dropped with its row (tests.node.test_ask_journal)",
    "pipeline.protocol.worker_status": "names and numbers of settings",
    "latentbus.logs.record": "a checked name",
    "latentbus.client.client": "its own status: a checked name",
    "latentbus.client.site_config": "a checked name of a site",
    "latentbus.commands.site": "checked names, moments made of the clock; what is too much is refused before it leaves",
    "latentbus.doctor.broker": "a receipt of fixed texts, under the name of the device",
    "analysis.replay.planner": "a question or ask of the log with names that have the types of the message",
    "analysis.workload": "a question of the log, or a text of one of its messages",
    "analysis.replay.remap": "a message of the log with another checked camera name",
    "analysis.redact.redaction": "placeholders as many as characters, other ones for each option "
    "(tests.analysis.test_redaction)",
    "pipeline.codec.wire_bytes": "constants; payloads are cut to what a message carries (tests.codec.test_wire_bytes)",
    "pipeline.protocol.fleet_view": "a status as it came, but offline",
    "latentbus.fleet.client": "questions of the command itself",
    "latentbus.demo.comparison": "frames of the demo's own run",
}
"""By module. Arguments become messages through ``latentbus.options.arguments.made_of``, whose error is typed."""

BESIDE = ("simulation.", "training.", "latentbus.attack.", "latentbus.bench.")
"""The simulator, training, the attacker and benchmarks: a mistake there ends a command of the developer's."""


def _builds(tree: ast.Module) -> bool:
    """Whether a module calls a message class, or changes a message without validation."""
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == messages.__name__:
            imported |= {alias.asname or alias.name for alias in node.names if alias.name in BUILT}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in imported:
            return True
        if isinstance(called, ast.Attribute):
            named = isinstance(called.value, ast.Name) and called.value.id in imported
            if named and called.attr in ("model_validate", "model_construct"):
                return True
            if imported and called.attr == "model_copy":
                return True
    return False


def test_every_place_that_builds_a_message_says_what_bounds_it() -> None:
    found: set[str] = set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if module.startswith(BESIDE) or module == messages.__name__:
                continue
            if _builds(parse(path)):
                found.add(module)
    assert found == set(PLACES)
