"""The two transforms: what the closed form guarantees, what the learned one starts from, what files keep."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.codec import meta_autoencoder_torch
from pipeline.codec.klt_torch import KltTransform, LatentShape
from pipeline.codec.meta_autoencoder_torch import MetaAutoEncoder
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder, load_transform, read_transform, save_transform
from pipeline.codec.spec import TABLES_FILE, WEIGHTS_FILE, CodecSpec, hash_file
from pipeline.codec.tables import FrequencyTables
from pipeline.codec.transform_torch import LatentTransform
from schemas.errors import ArtifactError, StateError
from tests.codec.synthetic import separable_tokens
from training.codec.config import CodecBudget
from training.codec.fit.klt import fit_klt
from training.codec.fit.meta import start_meta
from training.codec.prefixes import encode_all

LATENTS, WIDTH = 6, 8
SMALL = CodecBudget(encoder_width=16, decoder_width=16, decoder_layers=1)


def lengths(count: int, value: int) -> Tensor:
    return torch.full((count,), value)


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return separable_tokens(400, seed=0)


@pytest.fixture(scope="module")
def klt(tokens: Tensor) -> KltTransform:
    return fit_klt(tokens, LATENTS, WIDTH, step=0.2)


@pytest.fixture
def meta(klt: KltTransform, tokens: Tensor) -> MetaAutoEncoder:
    """A Meta AutoEncoder whose residual branches have left zero."""
    model = start_meta(klt, tokens, SMALL, seed=0).eval()
    assert model.encoder is not None
    torch.manual_seed(1)
    for branch in (model.decoder.out, model.encoder.out):
        torch.nn.init.normal_(branch.get_parameter("weight"), std=0.1)
    return model


def test_a_complete_klt_returns_tokens_within_the_quantiser(tokens: Tensor) -> None:
    frames, count, dim = tokens.shape
    transform = fit_klt(tokens, count * dim // 8, 8, step=0.05)
    decoded = transform.synthesise(transform.encode(tokens).float(), lengths(frames, transform.latent_count))
    error = (decoded - tokens).square().mean().sqrt()
    # A step of s gives an error of s / sqrt(12) in an orthonormal basis, a little more with the wider zero.
    assert error < 1.2 * float(transform.step) / 12**0.5


def test_klt_bases_are_orthonormal(klt: KltTransform) -> None:
    for basis in (klt.token_basis, klt.channel_basis):
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("planes", [0, 2])
def test_every_latent_takes_less_off_the_error_for_a_bit_than_the_one_before(tokens: Tensor, planes: int) -> None:
    """So no other order of the latents makes a prefix better for its size."""
    klt = fit_klt(tokens, LATENTS, WIDTH, step=0.2, planes=planes)
    symbols = klt.encode(tokens)
    bits = FrequencyTables.fit(symbols.numpy(), 31).symbol_bits(symbols.numpy(), 0, LATENTS).sum(2).mean(0)
    errors = torch.stack(
        [
            (klt.synthesise(symbols.float(), lengths(len(tokens), k)) - tokens).square().mean()
            for k in range(LATENTS + 1)
        ]
    )
    slopes = (-errors.diff()).numpy() / bits
    assert (np.diff(slopes) < 0).all()


def test_planes_make_short_prefixes_better_at_equal_bytes(tokens: Tensor) -> None:
    """Coarse values first: at a quarter of the bytes a fine step alone leaves more of the error."""

    def error_at(planes: int, bits: float) -> float:
        klt = fit_klt(tokens, 2 * LATENTS, WIDTH, step=0.1, planes=planes)
        symbols = klt.encode(tokens)
        tables = FrequencyTables.fit(symbols.numpy(), 63)
        sizes = tables.symbol_bits(symbols.numpy(), 0, 2 * LATENTS).sum(2).mean(0).cumsum()
        errors = [
            float((klt.synthesise(symbols.float(), lengths(len(tokens), k)) - tokens).square().mean())
            for k in range(1, 2 * LATENTS + 1)
        ]
        return float(np.interp(bits, sizes, errors))

    assert error_at(2, 100) < 0.9 * error_at(0, 100)


def test_the_planes_of_an_integer_are_exact(tokens: Tensor) -> None:
    klt = fit_klt(tokens, LATENTS, WIDTH, step=0.1, planes=2)
    assert (klt.unit > 1).any()
    coefficients = klt.analyse(tokens)
    symbols = klt.quantise(coefficients)
    refines = (klt.parent >= 0).view(LATENTS, WIDTH)
    assert set(symbols[:, refines].flatten().tolist()) <= {-1.0, 0.0, 1.0}
    finest = (klt.unit == 1).view(LATENTS, WIDTH)
    magnitude = torch.floor(coefficients.abs() + 0.5 - klt.dead_zone)
    whole = klt.whole_units(symbols)
    torch.testing.assert_close(whole[:, finest], (coefficients.sign() * magnitude)[:, finest], atol=0, rtol=0)
    assert ((whole * klt.unit.view(LATENTS, WIDTH) - coefficients).abs() <= klt.unit.view(LATENTS, WIDTH)).all()


def test_klt_beats_any_other_separable_basis(klt: KltTransform, tokens: Tensor) -> None:
    """What the first coefficients hold is the most that a separable orthonormal basis can hold."""
    other = fit_klt(tokens, LATENTS, WIDTH, step=0.2)
    torch.manual_seed(0)
    other.channel_basis.copy_(torch.linalg.qr(torch.randn(other.token_dim, other.token_dim)).Q)
    variance = other.coefficients(tokens).square().mean(0).flatten()
    other.order.copy_(variance.argsort(descending=True)[: LATENTS * WIDTH])
    for length in range(1, LATENTS + 1):
        held = klt.analyse(tokens)[:, :length].square().sum()
        assert held > other.analyse(tokens)[:, :length].square().sum()


def test_every_further_latent_helps(klt: KltTransform, tokens: Tensor) -> None:
    symbols = klt.encode(tokens).float()
    errors = [(klt.synthesise(symbols, lengths(len(tokens), k)) - tokens).square().mean() for k in range(LATENTS + 1)]
    assert all(later < earlier for earlier, later in pairwise(errors))
    torch.testing.assert_close(errors[0], (tokens - klt.mean).square().mean())


def test_reconstruction_points_are_where_the_coefficients_are(klt: KltTransform, tokens: Tensor) -> None:
    symbols = klt.encode(tokens).float()
    decoded = klt.synthesise(symbols, lengths(len(tokens), LATENTS))
    middle = fit_klt(tokens, LATENTS, WIDTH, step=0.2)
    middle.shrink.zero_()
    assert (decoded - tokens).square().mean() < (
        middle.synthesise(symbols, lengths(len(tokens), LATENTS)) - tokens
    ).square().mean()


def test_the_dead_zone_widens_zero_only(klt: KltTransform) -> None:
    zone = float(klt.dead_zone)
    edges = torch.tensor([0.49 + zone, 0.51 + zone, 1.49 + zone, 1.51 + zone])
    coefficients = torch.zeros(1, LATENTS, WIDTH)
    coefficients.view(-1)[:8] = torch.cat([edges, -edges])
    assert klt.quantise(coefficients).flatten()[:8].tolist() == [0, 1, 1, 2, 0, -1, -1, -2]


def test_meta_autoencoder_starts_as_the_klt(klt: KltTransform, tokens: Tensor) -> None:
    model = start_meta(klt, tokens, SMALL, seed=0).eval()
    torch.testing.assert_close(model.analyse(tokens), klt.analyse(tokens), atol=1e-4, rtol=1e-4)
    symbols = klt.encode(tokens).float()
    for length in (0, 1, 3, LATENTS):
        mine = model.synthesise(symbols, lengths(len(tokens), length))
        torch.testing.assert_close(mine, klt.synthesise(symbols, lengths(len(tokens), length)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["klt", "meta"])
def test_what_lies_beyond_the_prefix_is_not_looked_at(
    name: str, tokens: Tensor, request: pytest.FixtureRequest
) -> None:
    transform: LatentTransform = request.getfixturevalue(name)
    symbols = transform.encode(tokens[:5]).float()
    prefixes = torch.tensor([0, 1, 2, 5, 6])
    disturbed = torch.where(transform.in_prefix(prefixes), symbols, 77.0)
    torch.testing.assert_close(
        transform.synthesise(symbols, prefixes), transform.synthesise(disturbed, prefixes), atol=0, rtol=0
    )


def test_mixed_prefix_lengths_decode_as_they_do_alone(meta: MetaAutoEncoder, tokens: Tensor) -> None:
    symbols = meta.encode(tokens[:4]).float()
    prefixes = torch.tensor([1, 3, 6, 0])
    together = meta.synthesise(symbols, prefixes)
    for index in range(4):
        alone = meta.synthesise(symbols[index : index + 1], prefixes[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_batch_of_any_size_decodes_as_in_training(
    klt: KltTransform, tokens: Tensor, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gradients a few frames at a time go through the layers."""
    monkeypatch.setattr(meta_autoencoder_torch, "_TOKENS_IN_CACHE", 4 * klt.token_count + 1)
    model = start_meta(klt, tokens, SMALL, seed=0).eval()
    torch.nn.init.normal_(model.decoder.out.weight, std=0.1)
    symbols = klt.encode(tokens[:count]).float()
    mixed = torch.arange(count) % (LATENTS + 1)
    as_in_training = model.synthesise(symbols, mixed)
    assert as_in_training.requires_grad
    with torch.inference_mode():
        decoded = model.synthesise(symbols, mixed)
    assert decoded.shape == (count, *tokens.shape[1:])
    torch.testing.assert_close(decoded, as_in_training.detach(), atol=1e-6, rtol=1e-5)


def write_folder(folder: Path, transform: LatentTransform, name: str, tokens: Tensor) -> Path:
    folder.mkdir(exist_ok=True)
    save_transform(transform, folder / WEIGHTS_FILE)
    FrequencyTables.fit(encode_all(transform, tokens), 15).save(folder / TABLES_FILE)
    CodecSpec.model_validate(
        {
            "name": name,
            "version": 1,
            "token_count": transform.token_count,
            "token_dim": transform.token_dim,
            "latent_count": transform.latent_count,
            "latent_dim": transform.latent_dim,
            "image_size_px": 32,
            "ladder": (2, transform.latent_count),
            "base_latents": 2,
            "vlm_id": "none",
            "vlm_sha256": "0" * 64,
            "codec_sha256": hash_file(folder / WEIGHTS_FILE),
            "tables_sha256": hash_file(folder / TABLES_FILE),
        }
    ).save(folder)
    return folder


@pytest.mark.parametrize(("fixture", "name"), [("klt", "klt"), ("meta", "meta_autoencoder")])
def test_a_codec_survives_the_disk(
    fixture: str, name: str, tokens: Tensor, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    transform: LatentTransform = request.getfixturevalue(fixture)
    folder = write_folder(tmp_path / name, transform, name, tokens)
    loaded = load_transform(folder)
    again = load_transform(write_folder(tmp_path / "again", loaded, name, tokens))
    torch.testing.assert_close(loaded.analyse(tokens), again.analyse(tokens), atol=0, rtol=0)
    torch.testing.assert_close(loaded.analyse(tokens), transform.analyse(tokens), atol=0.05, rtol=0.01)
    decoder = load_prefix_decoder(folder)
    symbols = encode_all(loaded, tokens[:3])
    found = decoder.decode(symbols, np.array([0, 2, LATENTS]))
    expected = loaded.synthesise(torch.from_numpy(symbols).float(), torch.tensor([0, 2, LATENTS]))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert decoder.decode(symbols[:0], np.zeros(0, np.int64)).shape == (0, transform.token_count, transform.token_dim)


def test_a_decoder_refuses_wrong_shapes(klt: KltTransform, tokens: Tensor, tmp_path: Path) -> None:
    decoder = load_prefix_decoder(write_folder(tmp_path / "klt", klt, "klt", tokens))
    good = np.zeros((2, LATENTS, WIDTH), np.int32)
    for symbols, prefixes in (
        (good[:, :-1], np.array([1, 1])),
        (good[0], np.array([1])),
        (good, np.array([1])),
        (good, np.array([1, LATENTS + 1])),
        (good, np.array([-1, 1])),
    ):
        with pytest.raises(StateError):
            decoder.decode(symbols, prefixes)


def test_wrong_weights_are_named(klt: KltTransform, meta: MetaAutoEncoder, tokens: Tensor, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "klt", klt, "klt", tokens)
    spec = json.loads((folder / "codec.json").read_text())

    def declare(**changes: object) -> None:
        digest = hash_file(folder / WEIGHTS_FILE)
        (folder / "codec.json").write_text(json.dumps({**spec, "codec_sha256": digest, **changes}))

    declare(name="meta_autoencoder")
    with pytest.raises(ArtifactError, match="not the weights of a meta_autoencoder"):
        load_transform(folder)
    declare(token_dim=klt.token_dim + 1)
    with pytest.raises(ArtifactError, match="not the weights of a klt"):
        load_transform(folder)
    save_transform(meta, folder / WEIGHTS_FILE)
    declare(name="meta_autoencoder", latent_dim=WIDTH + 1)
    with pytest.raises(ArtifactError, match="the spec says"):
        load_transform(folder)
    (folder / WEIGHTS_FILE).write_bytes(b"nothing")
    declare()
    with pytest.raises(ArtifactError, match="not the weights"):
        load_transform(folder)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        load_transform(folder)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_tokens_that_say_nothing_are_named(value: float) -> None:
    with pytest.raises(StateError, match="the tower sees nothing"):
        fit_klt(torch.full((9, 4, 8), value), 2, 8, target_bytes=10.0)


def test_files_of_variants_that_are_gone_are_refused_by_name_and_older_ones_read(
    meta: MetaAutoEncoder, tokens: Tensor, tmp_path: Path
) -> None:
    """Files of earlier versions name four choices more."""
    shape = LatentShape(meta.token_count, meta.token_dim, LATENTS, WIDTH)
    tensors = {name: value.contiguous() for name, value in meta.state_dict().items()}
    left = {"fsq_levels": 0, "tail": "mask", "latents": "bidirectional", "own_embedding": True}
    path = tmp_path / "codec.safetensors"

    def write(**changes: object) -> None:
        config = json.dumps({**meta.config.as_dict(), **left, **changes})
        path.write_bytes(save(tensors, metadata={"config": config}))

    write()
    symbols = read_transform(path, "meta_autoencoder", shape).encode(tokens)
    assert torch.equal(symbols, meta.encode(tokens))
    for changes in ({"tail": "zero"}, {"latents": "causal"}, {"fsq_levels": 7}, {"own_embedding": False}):
        write(**changes)
        with pytest.raises(ArtifactError, match=f"{next(iter(changes))} is .* no longer decoded"):
            read_transform(path, "meta_autoencoder", shape)
