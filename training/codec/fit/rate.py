"""What bits cost in training: a differentiable code length, and the price of a bit at each prefix length."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from pipeline.codec.klt_torch import KltTransform

_FLOOR: Final = 2.0**-14
_NATS_TO_BITS: Final = 1.4426950408889634


class RateModel(nn.Module):
    """Code length of symbols under running statistics: probability of zero, then a geometric tail with a free sign.

    Between integers the length is interpolated. Coefficients are jittered by uniform noise of one step first, so that
    only those near a decision pull at the encoder: without it the bits of a rare symbol draw every coefficient to
    zero, however far from the threshold.

    Args:
        latent_count: Latents of a frame, K.
        latent_dim: Symbols of a latent, d.
        momentum: Weight of the past in the running statistics.
    """

    zero: Tensor
    magnitude: Tensor

    def __init__(self, latent_count: int, latent_dim: int, momentum: float = 0.98) -> None:
        super().__init__()
        self._momentum = momentum
        self.register_buffer("zero", torch.full((latent_count, latent_dim), 0.5))
        self.register_buffer("magnitude", torch.ones(latent_count, latent_dim))

    @torch.no_grad()
    def observe(self, symbols: Tensor, *, momentum: float | None = None) -> None:
        """Take a batch of symbols [B, K, d] into the running statistics."""
        self.observe_means((symbols == 0).float().mean(0), symbols.abs().mean(0), momentum=momentum)

    @torch.no_grad()
    def observe_means(self, zero: Tensor, magnitude: Tensor, *, momentum: float | None = None) -> None:
        """Take the means of a batch into the running statistics.

        Args:
            zero: Share of symbols that are zero [K, d].
            magnitude: Mean magnitude [K, d].
            momentum: Weight of the past; as of the model unless given.
        """
        keep = self._momentum if momentum is None else momentum
        self.zero.lerp_(zero, 1 - keep)
        self.magnitude.lerp_(magnitude, 1 - keep)

    def bits(self, coefficients: Tensor, noise: Tensor) -> Tensor:
        """Expected code length of each symbol.

        Args:
            coefficients: In units of the symbols, [B, K, d].
            noise: Uniform between -0.5 and 0.5, [B, K, d]; zeros for the length of symbols themselves.

        Returns:
            [B, K, d]; gradients flow to the coefficients.
        """
        zero = self.zero.clamp(_FLOOR, 1 - _FLOOR)
        ratio = (1 - (1 - zero) / self.magnitude.clamp_min(_FLOOR)).clamp(_FLOOR, 1 - _FLOOR)
        at_zero = -zero.log() * _NATS_TO_BITS
        at_one = -((1 - zero) * (1 - ratio) / 2).log() * _NATS_TO_BITS
        per_step = -ratio.log() * _NATS_TO_BITS
        magnitude = (coefficients + noise).abs()
        below_one = at_zero + (at_one - at_zero) * magnitude
        return torch.where(magnitude < 1, below_one, at_one + per_step * (magnitude - 1))


@torch.no_grad()
def prefix_prices(klt: KltTransform, tokens: Tensor) -> Tensor:
    """What a bit is worth at each prefix length, by the rate and distortion of a KLT along its prefixes.

    Its bases are orthonormal, so the error that each slot takes off is seen in its coefficient alone.

    Args:
        klt: Fitted to such tokens.
        tokens: Visual tokens [F, N, D].

    Returns:
        The error over the tokens' variance that one more bit takes off there, for lengths 0 to K, falling, [K + 1].
    """
    coefficients = klt.analyse(tokens.float())
    symbols = klt.quantise(coefficients)
    values = klt.restore(symbols)
    above = values - klt.increments(values)
    gain = ((coefficients - above).square() - (coefficients - values).square()).mean(0).sum(1) * klt.step.square()
    variance = (tokens.float() - klt.mean).square().mean() * tokens[0].numel()
    rate = RateModel(klt.latent_count, klt.latent_dim).to(tokens.device)
    rate.observe(symbols, momentum=0.0)
    bits = rate.bits(symbols, torch.zeros((), device=tokens.device)).mean(0).sum(1).clamp_min(0.1)
    slope = (gain / variance / bits).clamp_min(1e-9).cummin(0).values
    return torch.cat([slope[:1], slope])
