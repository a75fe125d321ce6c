"""The learned codec: a Meta AutoEncoder that starts at the KLT.

After "Progressive Semantic Communication for Efficient Edge-Cloud Vision-Language Models" (Hsu, Papagianni, Cheng;
arXiv 2604.26508): an ordered latent of fixed length, of which every prefix decodes because training hides the tail
behind a learned mask token. Different from the paper: symbols are integers with a rate term, the loss sees what the
language model sees, and analysis and synthesis begin as the closed-form transform, with residual branches that begin
at zero.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from pipeline.codec.klt_torch import KltTransform
from pipeline.codec.transform_torch import LatentTransform


@dataclass(frozen=True, slots=True)
class MetaAutoEncoderConfig:
    """Sizes of a Meta AutoEncoder.

    Attributes:
        token_count: Visual tokens of a frame, N.
        token_dim: Width of a visual token, D.
        latent_count: Latents of a frame, K.
        latent_dim: Symbols of a latent, d.
        encoder_width: Width of the residual encoder on the edge; 0 leaves it out.
        decoder_width: Width of the decoder in the cloud.
        decoder_layers: Its layers.
        heads: Attention heads of both.
    """

    token_count: int
    token_dim: int
    latent_count: int
    latent_dim: int
    encoder_width: int = 64
    decoder_width: int = 128
    decoder_layers: int = 3
    heads: int = 4

    def as_dict(self) -> dict[str, Any]:
        """Plain data, to be kept beside the weights."""
        return asdict(self)


class Attention(nn.Module):
    """Multi-head attention of queries [B, Q, W] to a context [B, C, W], pre-normalised by the caller."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Attend; [B, Q, W]."""
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
        self.read = nn.Linear(config.latent_dim, width)
        self.block = Block(width, config.heads)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.latent_dim)
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
        out: Tensor = self.out(self.norm(self.block(self.queries + self.read(coefficients), context)))
        return out


class Decoder(nn.Module):
    """N position queries read the prefix, whose tail is a mask token; what they add starts at zero.

    Args:
        config: Sizes.
    """

    def __init__(self, config: MetaAutoEncoderConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.embed = nn.Linear(config.latent_dim, width)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.latent_position = nn.Parameter(0.02 * torch.randn(config.latent_count, width))
        self.read = nn.Linear(config.token_dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(config.token_count, width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.token_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, latents: Tensor, in_prefix: Tensor, linear: Tensor) -> Tensor:
        """Correction of the linear synthesis.

        Args:
            latents: Dequantised latents of about unit variance [B, K, d].
            in_prefix: Which of them count, bool [B, K, 1].
            linear: Centred linear synthesis of about unit variance [B, N, D].

        Returns:
            [B, N, D].
        """
        context = torch.where(in_prefix, self.embed(latents), self.mask) + self.latent_position
        queries = self.read(linear) + self.position
        for block in self.blocks:
            queries = block(queries, context)
        out: Tensor = self.out(self.norm(queries))
        return out


class MetaAutoEncoder(LatentTransform):
    """Linear analysis and synthesis, each with a learned correction.

    ::

        X - mean -+- token basis x channel basis -(+)- * gain -> quantise -> symbols
                  +- residual encoder ------------'
        symbols / gain -+- token basis x channel basis -(+)- + mean -> X^
                        +- decoder (prefix, mask) ------'

    Args:
        config: Sizes.

    Attributes:
        scale: Standard deviation of a token value, scalar.
        spread: Standard deviation of each coefficient, [K, d].
        log_step: Logarithm of the quantiser's steps, [K, d].
    """

    order: Tensor
    scale: Tensor
    spread: Tensor

    def __init__(self, config: MetaAutoEncoderConfig) -> None:
        super().__init__(config.token_count, config.token_dim, config.latent_count, config.latent_dim, dead_zone=0.0)
        n, d = config.token_count, config.token_dim
        self.config = config
        self.mean = nn.Parameter(torch.zeros(n, d))
        self.token_analysis = nn.Parameter(torch.eye(n))
        self.channel_analysis = nn.Parameter(torch.eye(d))
        self.token_synthesis = nn.Parameter(torch.eye(n))
        self.channel_synthesis = nn.Parameter(torch.eye(d))
        self.log_step = nn.Parameter(torch.zeros(config.latent_count, config.latent_dim))
        self.shrink = nn.Parameter(torch.zeros(2, config.latent_count, config.latent_dim))
        self.register_buffer("order", torch.arange(config.latent_count * config.latent_dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("spread", torch.ones(config.latent_count, config.latent_dim))
        self.encoder = ResidualEncoder(config) if config.encoder_width else None
        self.decoder = Decoder(config)

    @torch.no_grad()
    def start_at(self, klt: KltTransform, spread: Tensor, scale: float) -> None:
        """Take over a KLT: from here, analysis and synthesis equal its own.

        Args:
            klt: Of the same shapes.
            spread: Standard deviation of its coefficients in steps, [K, d].
            scale: Standard deviation of a token value about the mean.
        """
        self.mean.copy_(klt.mean)
        self.token_analysis.copy_(klt.token_basis)
        self.token_synthesis.copy_(klt.token_basis)
        self.channel_analysis.copy_(klt.channel_basis)
        self.channel_synthesis.copy_(klt.channel_basis)
        self.order.copy_(klt.order)
        self.log_step.fill_(float(klt.step.log()))
        self.shrink.copy_(klt.shrink)
        self.dead_zone.copy_(klt.dead_zone)
        self.scale.fill_(scale)
        self.spread.copy_((spread * klt.step).clamp_min(1e-6))

    def analyse(self, tokens: Tensor) -> Tensor:
        """Corrected linear coefficients, in steps; see `LatentTransform.analyse`."""
        centred = tokens - self.mean
        grid = torch.einsum("nt,bnd,dc->btc", self.token_analysis, centred, self.channel_analysis)
        values = grid.flatten(1).index_select(1, self.order).reshape(-1, self.latent_count, self.latent_dim)
        if self.encoder is not None:
            values = values + self.spread * self.encoder(centred / self.scale, values / self.spread)
        coefficients: Tensor = values * torch.exp(-self.log_step)
        return coefficients

    def synthesise(self, symbols: Tensor, prefix_lengths: Tensor) -> Tensor:
        """Corrected linear synthesis of the prefix; see `LatentTransform.synthesise`."""
        in_prefix = self.in_prefix(prefix_lengths)
        magnitude = symbols.abs()
        shrink = torch.where(magnitude > 1.5, self.shrink[1], self.shrink[0])
        # The sign of zero is zero: a zero stays where it is, whatever the shrinkage.
        values = (symbols - symbols.detach().sign() * shrink) * torch.exp(self.log_step)
        values = torch.where(in_prefix, values, 0.0)
        scattered = values.new_zeros(len(values), self.token_count * self.token_dim)
        scattered = scattered.index_copy(1, self.order, values.flatten(1))
        grid = scattered.reshape(-1, self.token_count, self.token_dim)
        linear: Tensor = torch.einsum("nt,btc,dc->bnd", self.token_synthesis, grid, self.channel_synthesis)
        correction: Tensor = self.decoder(values / self.spread, in_prefix, linear / self.scale)
        return self.mean + linear + self.scale * correction
