"""The error tree: whose fault, and the numbers that a log or counter needs."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import get_type_hints

import pytest

from schemas import errors
from schemas.errors import (
    ArtifactError,
    BitstreamError,
    BrokerStartError,
    CameraNameError,
    ConfigError,
    EngineError,
    FeatureShapeError,
    FingerprintError,
    LatentbusError,
    LocalError,
    NotAuthorizedError,
    OversizeError,
    PublishRefusedError,
    RemoteError,
    SchemaVersionError,
    SourceError,
    TopicError,
    WireError,
    WireSizeError,
)
from schemas.types import SourceReason
from tests.source_names import PACKAGES, ROOT

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]


def test_every_error_is_either_our_fault_or_theirs() -> None:
    for error in CLASSES:
        assert issubclass(error, LatentbusError)
        if error is not LatentbusError:
            assert issubclass(error, LocalError) != issubclass(error, RemoteError), error


def test_module_docstring_draws_the_tree_as_it_is() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "Error" in line]
    names = [next(word for word in line.split() if word.endswith("Error")) for line in drawn]
    depth = {name: line.index(name) for name, line in zip(names, drawn, strict=True)}

    assert set(names) == {error.__name__ for error in CLASSES}
    for error in CLASSES:
        if error is not LatentbusError:
            parent = error.__bases__[0].__name__
            above = [name for name in names[: names.index(error.__name__)] if depth[name] < depth[error.__name__]]
            assert above[-1] == parent


def test_remote_errors_have_a_label_for_counters_that_no_peer_chooses() -> None:
    wire_errors = (WireError, TopicError, SchemaVersionError, WireSizeError)
    labels = {
        *(error.reason for error in wire_errors),
        BitstreamError.reason,
        FingerprintError.reason,
        CameraNameError.reason,
    }
    remote = {error for error in CLASSES if issubclass(error, RemoteError)} - {RemoteError}

    assert remote == {*wire_errors, BitstreamError, FingerprintError, CameraNameError}
    assert len(labels) == len(remote)


@pytest.mark.parametrize(
    ("error", "parts", "attributes"),
    [
        (ConfigError("a.yaml: x", "is wrong"), ["a.yaml: x", "is wrong"], {"where": "a.yaml: x"}),
        (ArtifactError("codec.json", "is missing"), ["codec.json", "missing"], {"path": "codec.json"}),
        (SourceError("gate.mp4", "no video"), ["gate.mp4", "no video"], {"source": "gate.mp4"}),
        (BrokerStartError("exited", "bad line 3"), ["exited", "bad line 3"], {"log": "bad line 3"}),
        (NotAuthorizedError("lb/v1/a"), ["lb/v1/a", "135"], {"reason_code": 135, "topic": "lb/v1/a"}),
        (PublishRefusedError("t", 151, "quota"), ["quota", "151"], {"reason_code": 151}),
        (OversizeError("t", 9, 8), ["9", "8"], {"size_bytes": 9, "limit_bytes": 8}),
        (SchemaVersionError("open", 3, frozenset({1, 2})), ["3", "1 and 2"], {"version": 3, "where": "open"}),
        (
            CameraNameError("gate", "north", "south"),
            ["'gate'", "'north'", "'south'"],
            {"site": "north", "other": "south"},
        ),
        (
            FeatureShapeError("model in process", (3, 8), (64, 32)),
            ["model in process", "[3, 8]", "64 tokens of 32 values"],
            {"found": (3, 8), "wanted": (64, 32), "failed": "model"},
        ),
        (EngineError("http://gpu", "no answer"), ["http://gpu", "no answer"], {"failed": "engine"}),
        (WireSizeError("ask", 9, 8), ["9", "8"], {"size_bytes": 9, "limit_bytes": 8}),
        (BitstreamError(8, 16, "short"), ["8..16", "short"], {"start": 8, "stop": 16}),
        (FingerprintError(b"\x01", b"\x02"), ["01", "02"], {"got": b"\x01", "expected": b"\x02"}),
    ],
)
def test_messages_carry_their_numbers(error: LatentbusError, parts: list[str], attributes: dict[str, object]) -> None:
    for part in parts:
        assert part in str(error)
    for name, value in attributes.items():
        assert getattr(error, name) == value


SAMPLES: dict[object, object] = {
    str: "text", int: 7, float: 1.5, bytes: b"\x01\x02", object: ("frame", 3), int | None: 9,
    frozenset[int]: frozenset({1, 2}),
    tuple[int, ...]: (3,), tuple[int, int]: (64, 32),
    dict[str, object]: {"command": "x", "error": "y"}, str | None: "why",
    float | None: 2.5, bool: True, Mapping[str, int]: {"table": 3},
    SourceReason: SourceReason.AUTH,
}  # fmt: skip


def all_error_classes() -> Iterator[type[LatentbusError]]:
    """Every class of the tree, those outside of schemas too."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if re.search(r"^class \w+\(\w*Error\):", file.read_text(encoding="utf-8"), re.MULTILINE):
                importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    pending = [LatentbusError]
    while pending:
        error = pending.pop()
        yield error
        pending += error.__subclasses__()


def sample_of(error: type[LatentbusError]) -> LatentbusError:
    if error.__init__ is Exception.__init__:
        return error("what happened")
    hints = get_type_hints(error.__init__)
    return error(**{name: SAMPLES[hints[name]] for name in inspect.signature(error).parameters})


def test_every_error_of_the_tree_survives_pickling_with_its_message_and_its_numbers() -> None:
    found = [*all_error_classes()]
    assert {*CLASSES} < {*found}
    for error in map(sample_of, found):
        for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert type(again) is type(error)
            assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def refuse(path: str) -> None:
    raise ArtifactError(path, "is damaged")


def test_a_process_pool_hands_an_error_on() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(ArtifactError, match="is damaged") as caught:
            pool.submit(refuse, "codec.json").result()
        assert caught.value.path == "codec.json"
        assert pool.submit(len, "still there").result() == 11
