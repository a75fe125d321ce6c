"""The learned codec: a Meta AutoEncoder that starts at the KLT.

After "Progressive Semantic Communication for Efficient Edge-Cloud Vision-Language Models" (Hsu, Papagianni, Cheng;
arXiv 2604.26508): an ordered latent of fixed length, of which every prefix decodes because training hides the tail
behind a learned mask token. Different from the paper: symbols are integers with a rate term, the loss sees what the
language model sees, and analysis and synthesis begin as the closed-form transform, with residual branches that begin
at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from pipeline.codec.klt_torch import KltTransform
from pipeline.codec.transform_torch import MAX_PLANES, LatentTransform

MAX_LAYERS: Final = 64
MAX_WIDTH: Final = 8192
_TOKENS_IN_CACHE: Final = 1_600
"""Tokens that a processor decodes together: what the layers hand on of more does not stay in its cache."""
_FEWEST: Final = {"decoder_layers": 0, "planes": 0}
"""Sizes that may be zero: such a part is left out."""
_MOST: Final = {
    "decoder_layers": MAX_LAYERS,
    "encoder_width": MAX_WIDTH,
    "decoder_width": MAX_WIDTH,
    "planes": MAX_PLANES,
}
_RETIRED: Final = {"fsq_levels": 0, "tail": "mask", "latents": "bidirectional", "own_embedding": True}
"""Choices that files of earlier versions name, and the one of each that is left."""


@dataclass(frozen=True, slots=True)
class MetaAutoEncoderConfig:
    """Sizes of a Meta AutoEncoder; kept beside its weights.

    Attributes:
        token_count: Visual tokens of a frame, N.
        token_dim: Width of a visual token, D.
        latent_count: Latents of a frame, K.
        latent_dim: Symbols of a latent, d.
        encoder_width: Width of the residual encoder on the edge.
        decoder_width: Width of the decoder in the cloud.
        decoder_layers: Its layers.
        heads: Attention heads of both.
        planes: Most refinement slots of a coefficient; see `pipeline.codec.transform_torch`.
    """

    token_count: int
    token_dim: int
    latent_count: int
    latent_dim: int
    encoder_width: int = 64
    decoder_width: int = 128
    decoder_layers: int = 3
    heads: int = 4
    planes: int = 0

    def __post_init__(self) -> None:
        """Refuse what no network can be built from.

        Raises:
            ValueError: a size is no integer, out of range, or a width does not divide by the heads.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            fewest, most = _FEWEST.get(field.name, 1), _MOST.get(field.name, 65_536)
            if type(value) is not int or not fewest <= value <= most:
                raise ValueError(f"{field.name} is not an integer in {fewest}..{most}")
        if self.encoder_width % self.heads or self.decoder_width % self.heads:
            raise ValueError(
                f"widths {self.encoder_width} and {self.decoder_width} do not divide by {self.heads} heads"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, to be kept beside the weights."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """What `as_dict` made, in this version or an earlier one.

        Raises:
            TypeError: a size is missing or unknown.
            ValueError: as in the constructor, or a variant that is no longer decoded.
        """
        kept = dict(content)
        for name, left in _RETIRED.items():
            if kept.pop(name, left) != left:
                raise ValueError(f"{name} is {content[name]!r}: a variant that is no longer decoded")
        return cls(**kept)


class Attention(nn.Module):
    """Multi-head attention of queries [B, Q, W] to a context [B, C, W], pre-normalised by the caller."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Every query attends to all of the context; [B, Q, W]."""
        heads = self._heads
        query = self.query(queries).unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, H, Q, W / H]
        key, value = self.key_value(context).unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, C, W / H]
        mixed = nnf.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Cross attention to a context, self attention, feed-forward, each on a residual path."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.cross_norm = nn.LayerNorm(width)
        self.context_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Refine queries [B, Q, W] from a context [B, C, W]."""
        queries = queries + self.cross(self.cross_norm(queries), self.context_norm(context))
        own = self.self_norm(queries)
        queries = queries + self.self_attention(own, own)
        out: Tensor = queries + self.mlp(self.mlp_norm(queries))
        return out


class OwnLinear(nn.Module):
    """A linear map for each latent, [B, K, from] to [B, K, to]: symbols of two latents mean unlike things."""

    def __init__(self, latent_count: int, from_dim: int, to_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(latent_count, from_dim, to_dim).uniform_(-1, 1) * from_dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(latent_count, to_dim))

    def forward(self, values: Tensor) -> Tensor:
        """Map each latent."""
        out: Tensor = torch.einsum("bki,kio->bko", values, self.weight) + self.bias
        return out


class ResidualEncoder(nn.Module):
    """K queries read the tokens once; their output is added to the linear coefficients. Starts at zero.

    Args:
        config: Sizes.
    """

    def __init__(self, config: MetaAutoEncoderConfig) -> None:
        super().__init__()
        width = config.encoder_width
        self.embed = nn.Linear(config.token_dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(config.token_count, width))
        self.queries = nn.Parameter(0.02 * torch.randn(config.latent_count, width))
        self.read = OwnLinear(config.latent_count, config.latent_dim, width)
        self.block = Block(width, config.heads)
        self.norm = nn.LayerNorm(width)
        self.out = OwnLinear(config.latent_count, width, config.latent_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, coefficients: Tensor) -> Tensor:
        """Correction of the coefficients.

        Args:
            tokens: Centred tokens of about unit variance [B, N, D].
            coefficients: Linear coefficients of about unit variance [B, K, d].

        Returns:
            [B, K, d].
        """
        context = self.embed(tokens) + self.position
        refined = self.block(self.queries + self.read(coefficients), context)
        out: Tensor = self.out(self.norm(refined))
        return out


class Decoder(nn.Module):
    """N position queries read the prefix, whose tail is a learned mask token; what they add starts at zero.

    Args:
        config: Sizes.
    """

    def __init__(self, config: MetaAutoEncoderConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.embed = OwnLinear(config.latent_count, config.latent_dim, width)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.latent_position = nn.Parameter(0.02 * torch.randn(config.latent_count, width))
        self.read = nn.Linear(config.token_dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(config.token_count, width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.token_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def context(self, latents: Tensor, in_prefix: Tensor) -> Tensor:
        """What the position queries read.

        Args:
            latents: Dequantised latents of about unit variance [B, K, d].
            in_prefix: Which of them count, bool [B, K, 1].

        Returns:
            [B, K, W].
        """
        embedded = self.embed(latents)
        hidden = self.mask.to(embedded.dtype)
        return torch.where(in_prefix, embedded, hidden) + self.latent_position

    def forward(self, linear: Tensor, context: Tensor) -> Tensor:
        """Correction of the linear synthesis.

        Args:
            linear: Centred linear synthesis of about unit variance [B, N, D].
            context: From `context`.

        Returns:
            [B, N, D].
        """
        queries = self.read(linear) + self.position
        for block in self.blocks:
            queries = block(queries, context)
        out: Tensor = self.out(self.norm(queries))
        return out


class MetaAutoEncoder(LatentTransform):
    """Linear analysis and synthesis, each with a learned correction.

    ::

        X - mean -+- token basis x channel basis -(+)- / step -> quantise -> symbols
                  +- residual encoder ------------'
        symbols * step -+- token basis x channel basis -(+)- + mean -> X^
                        +- decoder (prefix, tail hidden) -'

    Args:
        config: Sizes.

    Attributes:
        scale: Standard deviation of a token value, scalar.
        spread: Standard deviation of each coefficient, [K, d].
        log_step: Logarithm of the quantiser's steps, [K, d]; of a refinement slot, that of its root counts.
        fast_branches: Compute the learned corrections in bfloat16, for training on accelerators; the linear parts,
            which decide about symbols, stay in float32.
    """

    scale: Tensor
    spread: Tensor

    def __init__(self, config: MetaAutoEncoderConfig) -> None:
        super().__init__(
            config.token_count, config.token_dim, config.latent_count, config.latent_dim, planes=config.planes
        )
        n, d = config.token_count, config.token_dim
        self.config = config
        self.mean = nn.Parameter(torch.zeros(n, d))
        self.token_analysis = nn.Parameter(torch.eye(n))
        self.channel_analysis = nn.Parameter(torch.eye(d))
        self.token_synthesis = nn.Parameter(torch.eye(n))
        self.channel_synthesis = nn.Parameter(torch.eye(d))
        self.log_step = nn.Parameter(torch.zeros(config.latent_count, config.latent_dim))
        self.shrink = nn.Parameter(torch.zeros(2, config.latent_count, config.latent_dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("spread", torch.ones(config.latent_count, config.latent_dim))
        self.encoder = ResidualEncoder(config)
        self.decoder = Decoder(config)
        self.fast_branches = False

    def _branch(self, branch: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if not self.fast_branches:
            return branch(*inputs)
        with torch.autocast(self.mean.device.type, dtype=torch.bfloat16):
            return branch(*inputs).float()

    @torch.no_grad()
    def start_at(self, klt: KltTransform, spread: Tensor, scale: float) -> None:
        """Take over a KLT: from here, analysis and synthesis equal its own.

        Args:
            klt: Of the same shapes and planes.
            spread: Standard deviation of its coefficients in steps, [K, d].
            scale: Standard deviation of a token value about the mean.
        """
        self.mean.copy_(klt.mean)
        self.token_analysis.copy_(klt.token_basis)
        self.token_synthesis.copy_(klt.token_basis)
        self.channel_analysis.copy_(klt.channel_basis)
        self.channel_synthesis.copy_(klt.channel_basis)
        self.order.copy_(klt.order)
        self.parent.copy_(klt.parent)
        self.root.copy_(klt.root)
        self.unit.copy_(klt.unit)
        self.log_step.fill_(float(klt.step.log()))
        self.shrink.copy_(klt.shrink)
        self.dead_zone.copy_(klt.dead_zone)
        self.scale.fill_(scale)
        self.spread.copy_((spread * klt.step).clamp_min(1e-6))

    def steps(self) -> Tensor:
        """Quantiser steps of the coefficients, [K, d]; slots of one coefficient have the same."""
        return torch.exp(self.log_step.flatten()[self.root].view_as(self.log_step))

    def analyse(self, tokens: Tensor) -> Tensor:
        """Corrected linear coefficients, in steps; see `LatentTransform.analyse`."""
        centred = tokens - self.mean
        grid = torch.einsum("nt,bnd,dc->btc", self.token_analysis, centred, self.channel_analysis)
        values = grid.flatten(1).index_select(1, self.order).reshape(-1, self.latent_count, self.latent_dim)
        values = values + self.spread * self._branch(self.encoder, centred / self.scale, values / self.spread)
        values = values.flatten(1).index_select(1, self.root).view_as(values)
        coefficients: Tensor = values / self.steps()
        return coefficients

    def synthesise(self, symbols: Tensor, prefix_lengths: Tensor) -> Tensor:
        """Corrected linear synthesis of the prefix; see `LatentTransform.synthesise`."""
        in_prefix = self.in_prefix(prefix_lengths)
        return self.synthesise_values(self.restore(torch.where(in_prefix, symbols, 0.0)), in_prefix)

    def synthesise_values(self, values: Tensor, in_prefix: Tensor) -> Tensor:
        """Tokens from reconstruction points.

        Args:
            values: What each slot and those before it tell of its coefficient, in steps, [B, K, d].
            in_prefix: Which latents count, bool [B, K, 1].

        Returns:
            [B, N, D].
        """
        increments = torch.where(in_prefix, self.increments(values) * self.steps(), 0.0)
        unit = self.unit.to(self.spread.dtype)
        spread = self.spread * (unit / unit[self.root]).view_as(self.spread)
        context = self._branch(self.decoder.context, increments / spread, in_prefix)
        # Frames do not see each other.
        frames = max(len(increments), 1)
        if increments.device.type == "cpu" and not torch.is_grad_enabled():
            frames = max(_TOKENS_IN_CACHE // self.token_count, 1)
        parts = zip(torch.split(increments, frames), torch.split(context, frames), strict=True)
        return torch.cat([self._synthesise_part(*part) for part in parts])

    def _synthesise_part(self, increments: Tensor, context: Tensor) -> Tensor:
        linear: Tensor = self.token_synthesis @ (self.to_grid(increments) @ self.channel_synthesis.T)
        correction = self._branch(self.decoder, linear / self.scale, context)
        return torch.addcmul(self.mean + linear, self.scale, correction)
