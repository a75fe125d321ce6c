"""Codec folders in torch: save and load a transform, decode prefixes in the cloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from pipeline.codec.klt_torch import KltTransform, LatentShape
from pipeline.codec.meta_autoencoder_torch import MetaAutoEncoder, MetaAutoEncoderConfig
from pipeline.codec.spec import WEIGHTS_FILE, CodecSpec, load_codec_spec
from pipeline.codec.transform_torch import MAX_PLANES, PLANE_RATIO, LatentTransform
from schemas.errors import ArtifactError, StateError

_CONFIG_KEY: Final = "config"
_MAX_PROBLEM_CHARS: Final = 200


def save_transform(transform: LatentTransform, path: Path) -> None:
    """Write ``codec.safetensors``, matrices in half precision.

    What both sides use afterwards is what is read back from the file, so rounding does no harm.
    """
    config: dict[str, Any] = {"planes": transform.planes}
    if isinstance(transform, MetaAutoEncoder):
        config = transform.config.as_dict()
    tensors = {name: _stored(tensor.detach().cpu()) for name, tensor in transform.state_dict().items()}
    path.write_bytes(save(tensors, metadata={_CONFIG_KEY: json.dumps(config)}))


def _stored(tensor: Tensor) -> Tensor:
    if not tensor.dtype.is_floating_point:
        return tensor.to(torch.int32).contiguous()
    return tensor.to(torch.float16 if tensor.ndim >= 2 else tensor.dtype).contiguous()


def read_transform(path: Path, name: str, shape: LatentShape) -> LatentTransform:
    """Read ``codec.safetensors``.

    Args:
        path: The file.
        name: Kind of codec, as in the spec.
        shape: N, D, K and d, as in the spec.

    Returns:
        The transform in float32, in evaluation mode, without gradients.

    Raises:
        ArtifactError: missing, damaged, or of another kind or shape.
    """
    if not path.is_file():
        raise ArtifactError(str(path), "missing; the cloud needs the weights: copy the whole codec folder")
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {})[_CONFIG_KEY])
        # Shapes first, without memory: what the file declares must be what it holds before anything is allocated.
        with torch.device("meta"):
            transform: LatentTransform
            if name == "klt":
                transform = KltTransform(shape, planes=_plane_count(config))
            else:
                transform = MetaAutoEncoder(MetaAutoEncoderConfig.from_dict(config))
        found = LatentShape(transform.token_count, transform.token_dim, transform.latent_count, transform.latent_dim)
        if found != shape:
            raise ArtifactError(str(path), f"{found}, but the spec says {shape}")
        tensors = _checked(load_file(path), transform)
        transform.load_state_dict(tensors, assign=True)
    except ArtifactError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0][:_MAX_PROBLEM_CHARS]
        raise ArtifactError(str(path), f"not the weights of a {name} codec: {problem}") from error
    return transform.eval().requires_grad_(False)


def _checked(tensors: dict[str, Tensor], transform: LatentTransform) -> dict[str, Tensor]:
    """Tensors in the types that a transform computes with.

    Raises:
        ValueError: of another kind, not finite, or places that a frame does not have.
    """
    wanted = transform.state_dict()
    checked: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        like = wanted.get(name)
        if like is not None and tensor.dtype.is_floating_point != like.dtype.is_floating_point:
            raise ValueError(f"{name} is {tensor.dtype}")
        # A copy: the file is mapped, and may be replaced while the worker runs.
        checked[name] = tensor if like is None else tensor.to(like.dtype, copy=True)
        if not torch.isfinite(checked[name]).all():
            raise ValueError(f"{name} has values that are not finite")
    _check_range(checked, "order", 0, transform.token_count * transform.token_dim - 1)
    _check_range(checked, "root", 0, transform.latent_count * transform.latent_dim - 1)
    _check_range(checked, "unit", 1, PLANE_RATIO**transform.planes)
    parent = checked.get("parent")
    if parent is not None and bool((parent >= torch.arange(len(parent))).any() | (parent < -1).any()):
        raise ValueError("parent names slots that do not come before their own")
    return checked


def _check_range(tensors: dict[str, Tensor], name: str, low: int, high: int) -> None:
    values = tensors.get(name)
    if values is not None and values.numel() and not low <= int(values.min()) <= int(values.max()) <= high:
        raise ValueError(f"{name} names places outside {low}..{high}")


def _plane_count(config: dict[str, Any]) -> int:
    """Refinement planes of a KLT; files without the entry have none.

    Raises:
        ValueError: not a number of planes.
    """
    planes = config.get("planes", 0)
    if type(planes) is not int or not 0 <= planes <= MAX_PLANES:
        raise ValueError(f"planes is not an integer in 0..{MAX_PLANES}")
    return planes


def load_transform(folder: Path, spec: CodecSpec | None = None) -> LatentTransform:
    """Read a codec's weights.

    Args:
        folder: Codec folder.
        spec: Its spec, when it has been loaded already.

    Raises:
        ArtifactError: the folder or its weights are missing, damaged, or do not fit the spec.
    """
    spec = spec or load_codec_spec(folder)
    shape = LatentShape(spec.token_count, spec.token_dim, spec.latent_count, spec.latent_dim)
    return read_transform(folder / WEIGHTS_FILE, spec.name, shape)


class PrefixDecoder:
    """Symbols of prefixes to visual tokens, in the cloud.

    Args:
        transform: Of the codec.
        spec: Of the same codec.
        device: Where to decode.
    """

    def __init__(self, transform: LatentTransform, spec: CodecSpec, device: str | torch.device = "cpu") -> None:
        self.spec = spec
        self._transform = transform.to(device)
        self._device = torch.device(device)

    @torch.inference_mode()
    def decode(self, symbols: NDArray[np.int32], prefix_lengths: NDArray[np.integer[Any]]) -> Tensor:
        """Decode a batch of prefixes of any lengths.

        Args:
            symbols: int [B, K, d]; what lies beyond a frame's prefix is not looked at.
            prefix_lengths: int [B], each in 0..K; 0 gives the tokens of an average frame.

        Returns:
            float32 [B, N, D] on the decoder's device.

        Raises:
            StateError: other shapes or lengths.
        """
        expected = (self.spec.latent_count, self.spec.latent_dim)
        if symbols.ndim != 3 or symbols.shape[1:] != expected or prefix_lengths.shape != (len(symbols),):
            raise StateError(
                f"symbols {symbols.shape} with lengths {prefix_lengths.shape} are not [B, {expected}], [B]"
            )
        if len(symbols) and not 0 <= prefix_lengths.min() <= prefix_lengths.max() <= expected[0]:
            raise StateError(
                f"prefix lengths {prefix_lengths.min()}..{prefix_lengths.max()} are not in 0..{expected[0]}"
            )
        values = torch.from_numpy(np.ascontiguousarray(symbols)).to(self._device, torch.float32)
        lengths = torch.from_numpy(np.ascontiguousarray(prefix_lengths, dtype=np.int64)).to(self._device)
        return self._transform.synthesise(values, lengths)


def load_prefix_decoder(folder: Path, device: str | torch.device = "cpu") -> PrefixDecoder:
    """Load the cloud's half of a codec.

    Args:
        folder: Codec folder.
        device: Where to decode.

    Raises:
        ArtifactError: the folder is not a usable codec.
    """
    spec = load_codec_spec(folder)
    return PrefixDecoder(load_transform(folder, spec), spec, device)
