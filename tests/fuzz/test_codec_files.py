"""Damaged and hostile codec folders: each file loads or raises an ArtifactError, soon and in little memory.

The hashes in ``codec.json`` catch damage; here every file is made to pass them, as somebody who means harm would.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as save_numpy
from safetensors.torch import save as save_torch

from edge_nodes.encoder import OnnxEncoder
from pipeline.codec.klt_torch import KltTransform, LatentShape
from pipeline.codec.meta_autoencoder_torch import MetaAutoEncoder, MetaAutoEncoderConfig
from pipeline.codec.prefix_decoder_torch import read_transform, save_transform
from pipeline.codec.spec import (
    ENCODER_FILE,
    MAX_JSON_FILE_BYTES,
    SPEC_FILE,
    STOP_FILE,
    CodecSpec,
    hash_file,
    hash_vlm,
    load_codec_spec,
)
from pipeline.codec.stop_file import load_stop_rule
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.stop_rule import StopRule
from schemas.errors import ArtifactError
from tests.edge.support import write_codec
from tests.fuzz.budget import MEGABYTE, examples, process_growth_bytes, python_peak_bytes

SHAPE = LatentShape(token_count=4, token_dim=8, latent_count=4, latent_dim=2)
CONFIG = MetaAutoEncoderConfig(4, 8, 4, 2, encoder_width=8, decoder_width=8, decoder_layers=1, heads=2)
STOP = {"version": 1, "ladder": [1, 2, 4], "default": [0.9, 0.8, 0.0], "thresholds": {"count": [1, 1, 0]}, "risk": 0.02}

json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("f" * 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real codec of an edge."""
    return write_codec(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def klt_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("klt") / "codec.safetensors"
    save_transform(KltTransform(SHAPE), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def tables_bytes() -> bytes:
    return bytes(save_numpy({"frequencies": FrequencyTables.fit(np.zeros((3, 4, 2), np.int32), 1).frequencies}))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def refused(error: ArtifactError) -> None:
    assert len(str(error)) < 2_000


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """A file that was cut, or of which some bytes are others."""
    if data.draw(st.booleans()):
        return content[: data.draw(st.integers(0, len(content) - 1))]
    changed = bytearray(content)
    # Headers are at the front: damage there says more than damage in the numbers.
    places = st.integers(0, min(len(content), 512) - 1) | st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(places)] = data.draw(st.integers(0, 255))
    return bytes(changed)


# ---- codec.json and stop.json ---------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=examples(150))
def test_spec_with_fields_replaced(folder: Path, scratch: Path, data: st.DataObject) -> None:
    values = json.loads((folder / SPEC_FILE).read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        values[data.draw(st.sampled_from(sorted(values)) | st.text(max_size=8))] = data.draw(json_value)
    (scratch / SPEC_FILE).write_text(json.dumps(values))
    shutil.copy(folder / "tables.safetensors", scratch)
    try:
        assert isinstance(load_codec_spec(scratch), CodecSpec)
    except ArtifactError as error:
        refused(error)


@given(data=st.data())
@settings(max_examples=examples(150))
def test_stop_rule_with_fields_replaced(scratch: Path, data: st.DataObject) -> None:
    values: dict[str, Any] = dict(STOP)
    for _ in range(data.draw(st.integers(1, 3))):
        values[data.draw(st.sampled_from(sorted(values)))] = data.draw(json_value)
    (scratch / STOP_FILE).write_text(json.dumps(values))
    try:
        rule = load_stop_rule(scratch)
    except ArtifactError as error:
        refused(error)
    else:
        assert isinstance(rule, StopRule)
        assert 0.0 <= rule.risk <= 1.0


HOSTILE_JSON = {
    "nothing": b"",
    "not UTF-8": b"\xff\xfe{}",
    "lists in lists": b"[" * 60_000,
    "objects in objects": b'{"a":' * 10_000,
    "infinite ladder": b'{"version": 1, "ladder": [1e999], "default": [1], "thresholds": {}, "risk": 0}',
    "no number": b'{"version": 1, "ladder": [NaN], "default": [1], "thresholds": {}, "risk": 0}',
    "risk that is no number": b'{"version": 1, "ladder": [4], "default": [1], "thresholds": {}, "risk": NaN}',
    "integer of 10,000 digits": b'{"version": ' + b"9" * 10_000 + b"}",
    "a long ladder": b'{"version": 1, "ladder": ['
    + b"1," * 20_000
    + b'1], "default": [], "thresholds": {}, "risk": 0}',
    "too large": b" " * (MAX_JSON_FILE_BYTES + 1),
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_files(scratch: Path, name: str) -> None:
    for file in (SPEC_FILE, STOP_FILE):
        (scratch / file).write_bytes(HOSTILE_JSON[name])

    def load() -> None:
        for loader in (load_codec_spec, load_stop_rule):
            with pytest.raises(ArtifactError) as caught:
                loader(scratch)
            refused(caught.value)

    assert python_peak_bytes(load) < 8 * MEGABYTE


@pytest.mark.parametrize("content", [b"[]", b"[" * 60_000, b"null", b"\xff", b'"text"'])
def test_a_model_folder_with_a_bad_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_bytes(content)
    if content == b"[]":
        hash_vlm(tmp_path)  # no settings at all
        return
    with pytest.raises(ArtifactError, match="not a JSON object"):
        hash_vlm(tmp_path)


# ---- tables.safetensors ---------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=examples(200))
def test_damaged_tables(tables_bytes: bytes, scratch: Path, data: st.DataObject) -> None:
    path = scratch / "tables.safetensors"
    path.write_bytes(damaged(data, tables_bytes))
    try:
        tables = FrequencyTables.load(path)
    except ArtifactError as error:
        refused(error)
    else:
        assert (tables.frequencies.sum(axis=2, dtype=np.int64) == 65_536).all()


def with_header(header: Any, content: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


HOSTILE_SAFETENSORS = {
    "nothing": b"",
    "header of 4 GB": with_header({}, length=1 << 32),
    "header of 16 EB": with_header({}, length=(1 << 64) - 1),
    "no header": b"\0" * 8,
    "a terabyte declared": with_header(
        {"frequencies": {"dtype": "U16", "shape": [1 << 20, 1 << 19], "data_offsets": [0, 1 << 40]}}
    ),
    "shape that overflows": with_header(
        {"frequencies": {"dtype": "U16", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 0]}}
    ),
    "negative offsets": with_header({"frequencies": {"dtype": "U16", "shape": [1], "data_offsets": [-2, 0]}}, b"ab"),
    "no rows": with_header({"frequencies": {"dtype": "U16", "shape": [0, 0, 4], "data_offsets": [0, 0]}}),
    "no shape": with_header({"frequencies": {"dtype": "U16", "shape": [], "data_offsets": [0, 2]}}, b"ab"),
    "half floats": with_header({"frequencies": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}, b"ab"),
    "brain floats": with_header({"frequencies": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"ab"),
    "eight bit floats": with_header({"frequencies": {"dtype": "F8_E5M2", "shape": [2], "data_offsets": [0, 2]}}, b"ab"),
    "unknown numbers": with_header({"frequencies": {"dtype": "U99", "shape": [1], "data_offsets": [0, 2]}}, b"ab"),
    "another tensor": with_header({"other": {"dtype": "U16", "shape": [1], "data_offsets": [0, 2]}}, b"ab"),
    "a list for a header": with_header([1, 2]),
    "deep header": struct.pack("<Q", 5_000) + b"[" * 5_000,
}


@pytest.mark.parametrize("name", HOSTILE_SAFETENSORS)
def test_hostile_safetensors(scratch: Path, name: str) -> None:
    path = scratch / "hostile.safetensors"
    path.write_bytes(HOSTILE_SAFETENSORS[name])

    def load() -> None:
        with pytest.raises(ArtifactError) as caught:
            FrequencyTables.load(path)
        refused(caught.value)
        for kind in ("klt", "meta_autoencoder"):
            with pytest.raises(ArtifactError) as caught:
                read_transform(path, kind, SHAPE)
            refused(caught.value)

    assert python_peak_bytes(load) < MEGABYTE
    assert process_growth_bytes(load) < 32 * MEGABYTE


def test_every_type_of_number_is_refused_where_nobody_taught_numpy_about_it(scratch: Path) -> None:
    """ONNX registers bfloat16 with NumPy when it is imported; an edge or a worker has no need to import it."""
    types = {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F16": 2, "C64": 8, "I64": 8, "BOOL": 1}
    for dtype, size in types.items():
        about = {"frequencies": {"dtype": dtype, "shape": [1, 1, 4], "data_offsets": [0, 4 * size]}}
        (scratch / f"{dtype}.safetensors").write_bytes(with_header(about, b"\1" * 4 * size))
    probe = (
        "import sys; from pathlib import Path; from pipeline.codec.tables import FrequencyTables\n"
        "from schemas.errors import ArtifactError\n"
        "for path in sys.argv[1:]:\n"
        "    try: FrequencyTables.load(Path(path))\n"
        "    except ArtifactError as error: print(error)"
    )
    files = [str(scratch / f"{dtype}.safetensors") for dtype in types]
    done = subprocess.run([sys.executable, "-c", probe, *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(types)


# ---- codec.safetensors ----------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=examples(200))
def test_damaged_weights(klt_bytes: bytes, scratch: Path, data: st.DataObject) -> None:
    path = scratch / "weights.safetensors"
    path.write_bytes(damaged(data, klt_bytes))
    try:
        transform = read_transform(path, "klt", SHAPE)
    except ArtifactError as error:
        refused(error)
    else:
        tokens = transform.synthesise(torch.ones(1, 4, 2), torch.tensor([4]))
        assert tokens.shape == (1, 4, 8)


def weights(**changes: torch.Tensor | None) -> bytes:
    state = {name: tensor.contiguous() for name, tensor in KltTransform(SHAPE).state_dict().items()} | changes
    return bytes(save_torch({name: tensor for name, tensor in state.items() if tensor is not None}, {"config": "{}"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": torch.full((4, 8), float("nan"))},
        {"step": torch.tensor(float("inf"))},
        {"order": torch.arange(8) + 25},
        {"order": torch.arange(8) - 1},
        {"order": torch.arange(8).float()},
        {"mean": torch.zeros(4, 8, dtype=torch.int64)},
        {"mean": torch.zeros(8, 4)},
        {"mean": torch.zeros(0)},
        {"mean": None},
        {"other": torch.zeros(1)},
    ],
)
def test_weights_that_cannot_decode(scratch: Path, changes: dict[str, torch.Tensor | None]) -> None:
    path = scratch / "weights.safetensors"
    path.write_bytes(weights(**changes))
    with pytest.raises(ArtifactError) as caught:
        read_transform(path, "klt", SHAPE)
    refused(caught.value)


@given(
    config=st.fixed_dictionaries(
        {},
        optional={
            name: json_value | st.integers(-1, 70) | st.sampled_from([1 << 20, 1 << 40, 1 << 70])
            for name in (*CONFIG.as_dict(), "other")
        },
    )
)
@settings(max_examples=examples(150))
def test_any_configuration_in_front_of_small_weights(scratch: Path, config: dict[str, Any]) -> None:
    path = scratch / "weights.safetensors"
    merged = {**CONFIG.as_dict(), **config}
    path.write_bytes(save_torch({"mean": torch.zeros(4, 8)}, {"config": json.dumps(merged)}))
    with pytest.raises(ArtifactError) as caught:
        read_transform(path, "meta_autoencoder", SHAPE)
    refused(caught.value)


def test_sizes_that_are_declared_and_not_there_take_no_memory(scratch: Path) -> None:
    path = scratch / "weights.safetensors"
    wide = CONFIG.as_dict() | {"decoder_width": 8_192, "encoder_width": 8_192, "decoder_layers": 64}
    path.write_bytes(save_torch({"mean": torch.zeros(4, 8)}, {"config": json.dumps(wide)}))
    large = LatentShape(65_536, 65_536, 4_096, 4_096)

    def load() -> None:
        for kind, shape in (("meta_autoencoder", SHAPE), ("klt", large)):
            with pytest.raises(ArtifactError):
                read_transform(path, kind, shape)

    assert process_growth_bytes(load) < 32 * MEGABYTE


def test_a_learned_codec_with_good_weights_loads(scratch: Path) -> None:
    path = scratch / "good.safetensors"
    save_transform(MetaAutoEncoder(CONFIG), path)
    transform = read_transform(path, "meta_autoencoder", SHAPE)
    assert transform.synthesise(torch.ones(2, 4, 2), torch.tensor([0, 4])).isfinite().all()


# ---- encoder.onnx ---------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=examples(60))
def test_a_damaged_encoder(folder: Path, scratch: Path, data: st.DataObject) -> None:
    for file in folder.iterdir():
        shutil.copy(file, scratch)
    (scratch / ENCODER_FILE).write_bytes(damaged(data, (folder / ENCODER_FILE).read_bytes()))
    spec = json.loads((scratch / SPEC_FILE).read_text())
    spec["encoder_sha256"] = hash_file(scratch / ENCODER_FILE)
    (scratch / SPEC_FILE).write_text(json.dumps(spec))
    try:
        encoder = OnnxEncoder(scratch)
        encoder.encode([np.zeros((16, 16, 3), np.uint8)])
    except ArtifactError as error:
        refused(error)


def test_an_encoder_whose_names_are_no_text(folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "codec"))
    content = (broken / ENCODER_FILE).read_bytes()
    (broken / ENCODER_FILE).write_bytes(content.replace(b"pixels", b"\x80ixels"))
    spec = json.loads((broken / SPEC_FILE).read_text())
    spec["encoder_sha256"] = hash_file(broken / ENCODER_FILE)
    (broken / SPEC_FILE).write_text(json.dumps(spec))
    with pytest.raises(ArtifactError, match=r"encoder\.onnx"):
        OnnxEncoder(broken)


@pytest.mark.parametrize("name", [SPEC_FILE, "tables.safetensors", ENCODER_FILE, STOP_FILE])
def test_a_folder_in_the_place_of_a_file(folder: Path, tmp_path: Path, name: str) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "codec"))
    if (broken / name).exists():
        (broken / name).unlink()
    (broken / name).mkdir()
    with pytest.raises(ArtifactError):  # noqa: PT012
        OnnxEncoder(broken)
        load_stop_rule(broken)
