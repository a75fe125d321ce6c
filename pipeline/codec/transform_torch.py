"""What the two codecs have in common: tokens to coefficients, to symbols, and a prefix of them back to tokens."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from pipeline.codec.tables import MAX_SYMBOL


class LatentTransform(nn.Module, abc.ABC):
    """Analysis and synthesis of one codec.

    ::

        tokens [B, N, D] -> analyse -> coefficients [B, K, d] -> quantise -> symbols [B, K, d]
                                                                               |  first k latents
        tokens [B, N, D] <- synthesise <---------------------------------------+

    Attributes:
        token_count: Visual tokens of a frame, N.
        token_dim: Width of a visual token, D.
        latent_count: Latents of a frame, K.
        latent_dim: Symbols of a latent, d.
    """

    dead_zone: Tensor

    def __init__(self, token_count: int, token_dim: int, latent_count: int, latent_dim: int, dead_zone: float) -> None:
        """Keep the shapes.

        Args:
            token_count: N.
            token_dim: D.
            latent_count: K.
            latent_dim: d.
            dead_zone: By how much the interval of symbol 0 is wider than the others on either side, in steps. Zeros
                are cheap, so a little more distortion there saves more bits than it costs (Sullivan, 1996).
        """
        super().__init__()
        self.token_count = token_count
        self.token_dim = token_dim
        self.latent_count = latent_count
        self.latent_dim = latent_dim
        self.register_buffer("dead_zone", torch.tensor(dead_zone))

    @abc.abstractmethod
    def analyse(self, tokens: Tensor) -> Tensor:
        """Coefficients in units of the quantiser's step.

        Args:
            tokens: Visual tokens [B, N, D].

        Returns:
            [B, K, d], the most important latents first.
        """

    @abc.abstractmethod
    def synthesise(self, symbols: Tensor, prefix_lengths: Tensor) -> Tensor:
        """Tokens from a prefix.

        Args:
            symbols: Float [B, K, d]; what lies beyond the prefix is not looked at.
            prefix_lengths: How many latents of each frame count, int [B].

        Returns:
            [B, N, D].
        """

    def quantise(self, coefficients: Tensor) -> Tensor:
        """Symbols, still as floats, [B, K, d]."""
        magnitude = torch.floor(coefficients.abs() + (0.5 - self.dead_zone))
        return coefficients.sign() * magnitude.clamp(0, MAX_SYMBOL)

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] to symbols, int32 [B, K, d]."""
        return self.quantise(self.analyse(tokens)).to(torch.int32)

    def in_prefix(self, prefix_lengths: Tensor) -> Tensor:
        """Which latents count, bool [B, K, 1]."""
        places = torch.arange(self.latent_count, device=prefix_lengths.device)
        return (places < prefix_lengths[:, None])[:, :, None]
