"""Arithmetic of a model in this process: the type of its weights, and weights in 8 bits."""

from __future__ import annotations

from typing import Any, Final, Literal

import torch

from pipeline.config.serving_settings import ModelPrecision

_DTYPES: Final[dict[ModelPrecision, torch.dtype]] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_LARGEST: Final = 127


def weights_dtype(precision: ModelPrecision, device: str) -> torch.dtype | Literal["auto"]:
    """Type that weights are loaded in; ``auto`` is the checkpoint's own.

    Args:
        precision: of the settings; with ``int8`` the type of everything that is not quantised.
        device: torch device. Half precision is slow, or missing, on many CPUs.
    """
    usual: torch.dtype | Literal["auto"] = torch.float32 if torch.device(device).type == "cpu" else "auto"
    return _DTYPES.get(precision, usual)


class Int8Linear(torch.nn.Module):
    """A linear layer whose weights are integers from -127 to 127 with a scale for each output.

    They become floating point when they are used, one layer at a time: memory is what this saves.

    Args:
        layer: with floating-point weights ``[out, in]``.
    """

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        # A row of zeros has no scale of its own.
        scale = (weight.float().abs().amax(dim=1, keepdim=True) / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
        self.weight = torch.nn.Parameter((weight.float() / scale).round().to(torch.int8), requires_grad=False)
        self.scale = torch.nn.Parameter(scale.squeeze(1).to(weight.dtype), requires_grad=False)
        self.bias = layer.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Outputs ``[..., out]`` of ``[..., in]``."""
        product = torch.nn.functional.linear(values, self.weight.to(values.dtype)) * self.scale
        return product if self.bias is None else product + self.bias


def quantise_weights(model: Any) -> None:
    """Keep the weights of the linear layers of the language model in 8 bits, in place.

    The layer that gives the logits is left out: most models share it with the embedding.

    Args:
        model: a vision-language model of transformers.
    """
    logits = model.get_output_embeddings()
    for module in list(model.get_decoder().modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, torch.nn.Linear) and layer is not logits:
                setattr(module, name, Int8Linear(layer))
