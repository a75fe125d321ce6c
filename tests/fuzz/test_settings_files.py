"""Hostile settings files: they are settings or a ConfigError, soon and in little memory."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import settings_file
from pipeline.config.settings import LatentbusSettings, load_settings
from pipeline.config.settings_file import (
    MAX_SETTINGS_BYTES,
    MAX_SETTINGS_DEPTH,
    MAX_SETTINGS_VALUES,
    MAX_VALUE_CHARS,
    SettingsFile,
)
from schemas.errors import ConfigError
from tests.fuzz.budget import MEGABYTE, examples, python_peak_bytes

SITE = """\
broker: {host: broker.example, port: 8883, username: north, password: "${PASSWORD:-none}", keepalive_s: 30}
edge:
  site: north
  uplink_kbps: 64
  questions: {car: {text: "Is there a car?", answer_type: yes_no, deadline_ms: 10000}}
  cameras: {gate: {source: "test:1", interval_s: 1.0, questions: [car]}}
worker: {name: w-1, max_batch_frames: 16}
log: {level: info, json: true}
"""
LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)
MERGES = "m0: &m0 {k: v}\n" + "".join(
    f"m{level}: &m{level} {{<<: [*m{level - 1}, *m{level - 1}]}}\n" for level in range(1, 40)
)
REPEATS = "m0: &m0 {k: v}\n" + "".join(
    f"m{level}: &m{level} {{k: *m{level - 1}, k: *m{level - 1}}}\n" for level in range(1, 30)
)
HUGE_KEY = LAUGHS + "? *a11\n: x\n"
UNSET_EVERYWHERE = (
    'a: &a "' + "".join(f"${{NO_{index}}}" for index in range(5_000)) + f'"\nb: [{", ".join(["*a"] * 9_000)}]'
)


def read(path: Path) -> LatentbusSettings | ConfigError:
    """What a file is; any other error fails the test."""
    try:
        file = SettingsFile.read(path, environment={"HOME": "/nowhere"})
        return file.validate(LatentbusSettings, env_prefix="LATENTBUS_", env_delimiter="__")
    except ConfigError as error:
        assert len(str(error)) < 20_000  # noqa: PT017
        return error


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "site.yaml"


@given(content=st.binary(max_size=400))
@settings(max_examples=examples(150))
def test_any_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    read(path)


@given(data=st.data())
@settings(max_examples=examples(150))
def test_a_good_file_with_bytes_changed(path: Path, data: st.DataObject) -> None:
    content = bytearray(SITE.encode())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(st.sampled_from([b"", b"\0", b"\xff", b"*", b"&a ", b"!!", b"? ", b"- ", b"{", b"[", b"\t"]))
        content[place : place + data.draw(st.integers(0, 3))] = patch
    path.write_bytes(content)
    read(path)


any_value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.binary(max_size=30)
    | st.dates()
    | st.datetimes()
    | st.sampled_from(
        ["${HOME}", "${NONE}", "${NONE:-x}", "${", "${HOME:-${HOME}}", "/", "~nobody/x", "\0", "a" * 5000]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place] * bool(place) + [found for key, item in items for found in _places(item, (*place, key))]


@given(data=st.data())
@settings(max_examples=examples(250))
def test_a_good_file_with_values_replaced(path: Path, data: st.DataObject) -> None:
    values = yaml.safe_load(SITE)
    for _ in range(data.draw(st.integers(1, 3))):
        places = _places(values)
        if not places:
            break
        *parents, key = data.draw(st.sampled_from(places))
        owner = values
        for parent in parents:
            owner = owner[parent]
        owner[key] = data.draw(any_value)
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    read(path)


HOSTILE = {
    "billion laughs": LAUGHS,
    "billion merges": MERGES,
    "billion repeats": REPEATS,
    "billion laughs as a key": HUGE_KEY,
    "aliases of unset variables": UNSET_EVERYWHERE,
    "a list in itself": "a: &a [*a]",
    "a mapping in itself": "a: &a {b: *a}",
    "unknown anchor": "a: *b",
    "lists in lists": "[" * 50_000,
    "closed lists in lists": "a: " + "[" * 5_000 + "]" * 5_000,
    "mappings in mappings": "{a: " * 20_000,
    "indented": "".join(f"{' ' * level}a:\n" for level in range(600)),
    "python object": "!!python/object/apply:os.system ['true']",
    "python name": "log: !!python/name:os.system",
    "wrong timestamp": "a: !!timestamp x",
    "empty integer": 'a: !!int ""',
    "wrong boolean": "a: !!bool x",
    "wrong float": "a: !!float x",
    "wrong binary": "a: !!binary =====",
    "wrong pairs": "a: !!omap [x]",
    "impossible date": "a: 2026-13-45",
    "time beyond the calendar": "a: 9999-12-31T23:59:59-23:59",
    "integer of 5,000 digits": f"broker: {{port: {'9' * 5_000}}}",
    "integer of 100,000 hexadecimal digits": f"broker: {{port: 0x{'F' * 100_000}}}",
    "hundred thousand scalars": "[" + "0," * 100_000 + "]",
    "sexagesimal integer": f"broker: {{port: {':'.join(['59'] * 20_000)}}}",
    "infinite rate": "edge: {uplink_kbps: .inf}",
    "text where a number belongs": f"broker: {{port: {'x' * 100_000}}}",
    "long name": f"worker: {{name: {'x' * 100_000}}}",
    "long unknown key": f"worker: {{{'x' * 1_000}: 1}}",
    "ten thousand unknown keys": "worker:\n" + "".join(f"  k{index}: 1\n" for index in range(9_000)),
    "list as key": "{[a]: b}",
    "null as key": "{~: b}",
    "two documents": "a: 1\n---\nb: 2",
    "directive": "%YAML 9.9\n---\na: 1",
    "unset variables": "log: {level: " + "${NO}" * 10_000 + "}",
    "null byte in a path": 'worker: {codec: "a\\0b"}',
    "lone surrogate": 'worker: {vlm: "\\uD800"}',
    "base64": f"worker: {{vlm: !!binary {base64.b64encode(bytes(range(256))).decode()}}}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_known_traps_are_refused_soon_and_in_little_memory(path: Path, name: str) -> None:
    content = HOSTILE[name].encode("utf-8", "surrogatepass")
    path.write_bytes(content)
    start_s = time.process_time()
    peak_bytes = python_peak_bytes(lambda: read(path))
    # tracemalloc makes everything several times slower.
    assert time.process_time() - start_s < 20.0
    assert peak_bytes < 2 * MEGABYTE + 2_000 * len(content)


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - {"null byte in a path", "lone surrogate"}))
def test_known_traps_are_errors(path: Path, name: str) -> None:
    path.write_text(HOSTILE[name], encoding="utf-8")
    assert isinstance(read(path), ConfigError)


def test_the_traps_name_what_is_wrong(path: Path) -> None:
    for name, problem in {
        "billion laughs": f"more than {MAX_SETTINGS_VALUES} values",
        "billion merges": f"more than {MAX_SETTINGS_VALUES} values",
        "billion repeats": f"more than {MAX_SETTINGS_VALUES} values",
        "hundred thousand scalars": f"more than {MAX_SETTINGS_VALUES} values",
        "aliases of unset variables": "5000 problems",
        "list as key": "a key must be a text",
        "a list in itself": f"nested more than {MAX_SETTINGS_DEPTH} levels",
        "lists in lists": f"nested more than {MAX_SETTINGS_DEPTH} levels",
        "integer of 100,000 hexadecimal digits": "an integer of 400000 bits",
        "ten thousand unknown keys": "and 8980 more",
    }.items():
        path.write_text(HOSTILE[name], encoding="utf-8")
        assert problem in str(read(path)), name


def test_anchors_that_save_typing_work(path: Path) -> None:
    path.write_text(
        "edge:\n  site: n\n  questions: {q: {text: Car?}}\n  cameras:\n"
        "    a: &camera {source: 'test:1', questions: [q]}\n    b: {<<: *camera, source: 'test:2'}\n"
    )
    found = read(path)
    assert isinstance(found, LatentbusSettings)
    assert found.edge is not None
    assert found.edge.cameras["b"].questions == ("q",)


def test_a_text_of_many_aliases_is_filled_in_once(path: Path) -> None:
    path.write_text('a: &a "${LONG}"\nb: [' + ", ".join(["*a"] * 9_000) + "]")
    environment = {"LONG": "x" * 60_000}
    assert python_peak_bytes(lambda: SettingsFile.read(path, environment)) < 20 * MEGABYTE


def test_a_time_of_day_is_a_text_and_not_minutes(path: Path) -> None:
    path.write_text("a: 12:30\nb: 1230")
    assert SettingsFile.read(path, {}).values == {"a": "12:30", "b": 1230}


@pytest.mark.parametrize("name", ["lists in lists", "closed lists in lists", "mappings in mappings", "indented"])
def test_depth_is_bounded_with_the_slower_parser_too(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_file, "_PARSER", yaml.SafeLoader)
    path.write_text(HOSTILE[name], encoding="utf-8")
    start_s = time.process_time()
    assert f"nested more than {MAX_SETTINGS_DEPTH} levels" in str(read(path))
    assert time.process_time() - start_s < 5.0


def test_a_long_variable_is_refused(path: Path) -> None:
    path.write_text("worker: {vlm: '" + "${LONG}" * 100 + "'}")
    with pytest.raises(ConfigError, match=f"worker.vlm: longer than {MAX_VALUE_CHARS} characters"):
        SettingsFile.read(path, environment={"LONG": "x" * 10_000})


def test_what_is_no_file_of_its_own_size_is_not_read_without_end() -> None:
    with pytest.raises(ConfigError, match=f"larger than {MAX_SETTINGS_BYTES} bytes"):
        load_settings(Path("/dev/zero"))
    assert load_settings(Path("/dev/null")).edge is None
