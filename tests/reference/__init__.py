"""The parts of ``docs/`` that are written from the code, so that they cannot drift from it.

``python -m tests.reference`` writes them between their marks; ``tests/test_docs.py`` fails when they are not current.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.reference import brokers, commands, families, protocol
from tests.source_names import ROOT

DOCS = ROOT / "docs"
ASYNCAPI = DOCS / "asyncapi.json"

SECTIONS: dict[str, Callable[[], str]] = {
    "topics": protocol.topics_table,
    "messages": protocol.messages_reference,
    "outcomes": protocol.outcomes_table,
    "reasons": protocol.reasons_table,
    "reserved": protocol.reserved_table,
    "limits": protocol.limits_table,
    "errors": protocol.errors_table,
    "times": protocol.times_table,
    "edge-states": protocol.edge_states,
    "worker-states": protocol.worker_states,
    "wire-cost": protocol.wire_cost_table,
    "exit-statuses": commands.exit_statuses,
    "families": families.families_table,
    "broker-bugs": brokers.bugs_table,
    "second-broker": brokers.differences_table,
}

_SECTION = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def refreshed(text: str) -> str:
    """A document with its generated parts written anew."""
    return _SECTION.sub(lambda match: f"{match[1]}\n{SECTIONS[match[2]]().rstrip()}\n\n{match[3]}", text)


def sections_in(text: str) -> list[str]:
    """Names of the generated parts of a document."""
    return [match[2] for match in _SECTION.finditer(text)]


def documents() -> list[Path]:
    """Every Markdown document of the project."""
    return [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
