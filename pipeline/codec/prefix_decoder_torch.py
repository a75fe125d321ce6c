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
from pipeline.codec.transform_torch import LatentTransform
from schemas.errors import ArtifactError, StateError

_CONFIG_KEY: Final = "config"


def save_transform(transform: LatentTransform, path: Path) -> None:
    """Write ``codec.safetensors``; a learned transform in half precision.

    What both sides use afterwards is what is read back from the file, so rounding does no harm.
    """
    learned = isinstance(transform, MetaAutoEncoder)
    config: dict[str, Any] = transform.config.as_dict() if isinstance(transform, MetaAutoEncoder) else {}
    tensors = {
        name: tensor.detach().to(torch.float16 if learned and tensor.ndim >= 2 else tensor.dtype).contiguous()
        for name, tensor in transform.state_dict().items()
    }
    path.write_bytes(save(tensors, metadata={_CONFIG_KEY: json.dumps(config)}))


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
        transform: LatentTransform
        transform = KltTransform(shape) if name == "klt" else MetaAutoEncoder(MetaAutoEncoderConfig(**config))
        tensors = load_file(path)
        transform.load_state_dict({key: t.float() if t.dtype.is_floating_point else t for key, t in tensors.items()})
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(str(path), f"not the weights of a {name} codec: {str(error).splitlines()[0]}") from error
    found = LatentShape(transform.token_count, transform.token_dim, transform.latent_count, transform.latent_dim)
    if found != shape:
        raise ArtifactError(str(path), f"{found}, but the spec says {shape}")
    return transform.eval().requires_grad_(False)


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
