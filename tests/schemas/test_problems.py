"""What pydantic finds, in our words: no message of the library's reaches a user."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from schemas.hosts import check_host
from schemas.messages import Ask, Question, Text
from schemas.problems import NAME_RULE, echo, problem_text
from schemas.types import AnswerType

OF_THE_LIBRARY = re.compile(r"Input should|String should|Field required|valid |pydantic|Value error|Extra inputs")
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"broker": {"port": 0}}, "must be at least 1"),
    ({"broker": {"port": 70_000}}, "must be at most 65535"),
    ({"broker": {"port": "x"}}, "must be a whole number"),
    ({"broker": {"port": 1.5}}, "must be a whole number"),
    ({"broker": 3}, "must be a section of keys and values"),
    ({"broker": {"hst": "a"}}, "unknown key"),
    ({"broker": {"host": ["a"]}}, "must be a text"),
    ({"edge": {}}, "missing"),
    ({"edge": {"site": "A b"}}, f"is no name: write {NAME_RULE}"),
    ({"edge": {"site": "a", "cameras": {}}}, "needs at least 1, has 0"),
    ({"edge": {"site": "a", "cameras": []}}, "must be a section of keys and values"),
    ({"edge": {"site": "a", "cameras": {"a": {"source": "a", "questions": "q"}}}}, "must be a list"),
    ({"edge": {"site": "a", "cameras": {"a": {"source": "a", "interval_s": "x"}}}}, "must be a number"),
    ({"edge": {"site": "a", "cameras": {"a": {"source": "a", "loop": "x"}}}}, "must be true or false"),
    ({"edge": {"site": "a", "cameras": {"a": {"source": ""}}}}, "must not be empty"),
    ({"edge": {"site": "a", "cameras": {"a": {"source": "a"}}, "codec": 3}}, "must be a path"),
    ({"log": {"level": "loud"}}, "must be 'debug', 'info', 'warning' or 'error'"),
    ({"worker": {"capacity_frames": float("inf")}}, "must be a finite number"),
]


def problems(model: type[BaseModel], values: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        model(**values)
    return [problem_text(dict(details)) for details in caught.value.errors()]


@pytest.mark.parametrize(("values", "expected"), WRONG)
def test_each_kind_of_mistake_has_our_words(values: dict[str, Any], expected: str) -> None:
    found = problems(LatentbusSettings, values)
    assert expected in found
    assert not [text for text in found if OF_THE_LIBRARY.search(text)]


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u2003\u00a0"])
def test_a_blank_question_is_refused_wherever_one_is_written(text: str) -> None:
    typed: dict[type[BaseModel], dict[str, Any]] = {
        QuestionSettings: {},
        Question: {"site": "north", "question_id": "q"},
        Ask: {"query_id": "q"},
        Text: {"camera": "gate", "owner": "site/north", "question_id": "q", "answer_type": AnswerType.TEXT},
    }
    for model, rest in typed.items():
        found = problems(model, {**rest, "text": text})
        assert found[0] in ("must not be empty", "is blank: write a text"), model


@pytest.mark.parametrize(
    ("host", "instead"),
    [
        ("mqtt://broker.example", ": write broker.example"),
        ("mqtts://broker.example:8883/x", ": write broker.example, port 8883 and a tls section"),
        ("tcp://[2001:db8::1]:1883", ": write 2001:db8::1, port 1883"),
        ("user:pw@broker.example", ": write broker.example"),
        ("broker.example/", ": write broker.example"),
        ("mqtt://", ""),
        ("", ""),
        ("a b", ""),
        ("brök.example", ""),
        ("[", ""),
    ],
)
def test_what_is_no_host_is_refused_with_what_was_meant(host: str, instead: str) -> None:
    with pytest.raises(ValueError, match="a host name in ASCII or an address alone") as caught:
        check_host(host)
    assert str(caught.value).endswith(f"alone{instead}")


def test_a_long_value_is_cut() -> None:
    assert len(echo("x" * 10_000)) < 120
    assert echo(1 << 5_000) == "an integer of 5001 bits"
