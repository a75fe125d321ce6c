"""The AsyncAPI document in the official parser."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from schemas.messages import BINARY_MESSAGES, JSON_MESSAGES
from schemas.topics import ROUTES
from tests.conftest import NO_SKIPS
from tests.node_packages import find_node, installed
from tests.reference import ASYNCAPI

pytestmark = [
    pytest.mark.skipif(not os.environ.get(NO_SKIPS), reason="make test-extras runs it: it installs 170 npm packages"),
    pytest.mark.timeout(600),
]
PACKAGES = ("@asyncapi/parser@3.6.6",)
SCRIPT = Path(__file__).with_name("asyncapi_parser.mjs")
ERROR, WARNING = 0, 1
"""Severities; what is above them is advice, such as that there is a newer version of AsyncAPI."""


def parsed(pytestconfig: pytest.Config, path: Path) -> Any:
    node = find_node()
    modules = installed(node, PACKAGES, pytestconfig, timeout_s=400)
    done = subprocess.run([node, SCRIPT, path, modules], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_document_is_valid_and_says_all(pytestconfig: pytest.Config) -> None:
    found = parsed(pytestconfig, ASYNCAPI)
    assert [entry for entry in found["diagnostics"] if entry["severity"] <= WARNING] == []
    assert found["read"]["version"] == "3.0.0"
    assert len(found["read"]["channels"]) == len(ROUTES)
    assert set(found["read"]["messages"]) == {message.__name__ for message in (*BINARY_MESSAGES, *JSON_MESSAGES)}
    assert "client_sends_ask" in found["read"]["operations"]


def test_the_parser_finds_what_is_wrong(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    document = json.loads(ASYNCAPI.read_text(encoding="utf-8"))
    document["operations"]["client_sends_ask"]["action"] = "shout"
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(document))
    assert any(entry["severity"] == ERROR for entry in parsed(pytestconfig, broken)["diagnostics"])
