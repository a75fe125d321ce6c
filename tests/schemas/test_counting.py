"""Numbers of things in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import schemas
from schemas.counting import counted

ROOT = Path(schemas.__file__).parents[1]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (counted(0, "message"), "0 messages"),
        (counted(1, "message"), "1 message"),
        (counted(1234, "byte"), "1,234 bytes"),
        (counted(1, "query", "queries"), "1 query"),
        (counted(2, "query", "queries"), "2 queries"),
    ],
)
def test_one_is_singular(said: str, expected: str) -> None:
    assert said == expected


def test_nobody_writes_a_plural_in_brackets() -> None:
    bracketed = re.compile(r"[a-z]\((s|es|ies)\)")
    packages = ("analysis", "broker_config", "cloud_workers", "edge_nodes", "latentbus", "pipeline", "schemas",
                "simulation", "training")  # fmt: skip
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(bracketed.search(text) for text in re.findall(r'"[^"]*"', line))
    ]
    assert found == []
