"""Vision towers of the supported families with what follows them, for batches of square images of one size.

Written out: the models' own methods take steps that depend on the data (padding images, lists of sizes, packed
sequences) and cannot be exported. Each is compared with its model's own method in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from schemas.errors import ArtifactError


class LastLayer(nn.Module):
    """Tower and connector, from the last layer: SmolVLM, Idefics3, Gemma 3, PaliGemma.

    Args:
        tower: gives ``last_hidden_state``, [B, N, C] or a map [B, C, H, W].
        connector: of the model.
    """

    def __init__(self, tower: nn.Module, connector: nn.Module) -> None:
        super().__init__()
        self.tower, self.connector = tower, connector

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] to visual tokens [B, N, D]."""
        hidden = self.tower(images).last_hidden_state
        if hidden.ndim == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        tokens: Tensor = self.connector(hidden)
        return tokens


class ChosenLayers(nn.Module):
    """Tower and connector, from one layer or several: LLaVA.

    Args:
        model: with ``vision_tower`` and ``multi_modal_projector``.
        config: of the model.
    """

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__()
        self.tower, self.connector = model.vision_tower, model.multi_modal_projector
        chosen = config.vision_feature_layer
        self._layers: list[int] = [chosen] if isinstance(chosen, int) else list(chosen)
        self._skipped = 1 if config.vision_feature_select_strategy == "default" else 0  # the class token

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] to visual tokens [B, N, D]."""
        layers = self.tower(images, output_hidden_states=True).hidden_states
        hidden = torch.cat([layers[index][:, self._skipped :] for index in self._layers], dim=-1)
        tokens: Tensor = self.connector(hidden)
        return tokens


class TileAndView(ChosenLayers):
    """One tile and the global view, which are the same image, and a token at the end of each row: LLaVA-NeXT."""

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__(model, config)
        self.end_of_row = model.image_newline
        self._edge = int(config.vision_config.image_size // config.vision_config.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] to visual tokens [B, N, D]."""
        view = super().forward(images)
        rows = view.reshape(view.shape[0], self._edge, self._edge, view.shape[-1])
        ends = self.end_of_row.expand(view.shape[0], self._edge, 1, -1)
        return torch.cat([view, torch.cat([rows, ends], dim=2).flatten(1, 2)], dim=1)


class Shuffled(nn.Module):
    """Tower, neighbouring tokens merged into one, connector: InternVL."""

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__()
        self.tower, self.connector = model.vision_tower, model.multi_modal_projector
        self._layer = int(config.vision_feature_layer)
        self._skipped = 1 if config.vision_feature_select_strategy == "default" else 0
        self._merged = round(1 / config.downsample_ratio)
        sizes = (config.vision_config.image_size, config.vision_config.patch_size)
        image_px, patch_px = (size if isinstance(size, int) else size[0] for size in sizes)
        self._edge = image_px // patch_px

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] to visual tokens [B, N, D]."""
        found = self.tower(images, output_hidden_states=self._layer != -1)
        hidden = found.last_hidden_state if self._layer == -1 else found.hidden_states[self._layer]
        hidden = hidden[:, self._skipped :]
        edge, by = self._edge // self._merged, self._merged
        blocks = hidden.reshape(hidden.shape[0], edge, by, edge, by, hidden.shape[-1])
        tokens: Tensor = self.connector(blocks.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2))
        return tokens


class Queried(nn.Module):
    """Tower and query former: BLIP-2."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.former, self.connector = model.vision_model, model.qformer, model.language_projection
        self.queries = model.query_tokens

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] to visual tokens [B, N, D]."""
        hidden = self.tower(pixel_values=images).last_hidden_state
        queries = self.queries.expand(images.shape[0], -1, -1)
        found = self.former(query_embeds=queries, encoder_hidden_states=hidden).last_hidden_state
        tokens: Tensor = self.connector(found)
        return tokens


class PackedPatches(nn.Module):
    """A tower that reads packed sequences of patches, for images of one size: Qwen2.5-VL and Qwen3-VL.

    Its own method splits the sequence by image; here images are a batch, and windows are a mask.

    Args:
        model: with ``visual``.
        config: of the model.
        size_px: edge of an image.
    """

    position_ids: Tensor
    order: Tensor
    back: Tensor
    mask: Tensor
    added: Tensor

    def __init__(self, model: Any, config: Any, size_px: int) -> None:
        super().__init__()
        vision = config.vision_config
        self.tower = model.visual
        self._patch, self._merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self._repeats = int(vision.temporal_patch_size)
        self._edge = size_px // (self._patch * self._merge)
        patches = self._edge * self._merge
        grid = torch.tensor([[1, patches, patches]])
        unit = self._merge**2
        windows = torch.tensor([0, patches**2])
        order = torch.arange(self._edge**2)
        self._everywhere = frozenset(range(len(self.tower.blocks)))
        if hasattr(self.tower, "window_size"):
            order, windows = get_vision_window_index(grid, self._merge, self.tower.window_size, self._patch)
            self._everywhere = frozenset(self.tower.fullatt_block_indexes)
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())
        index = torch.bucketize(torch.arange(patches**2), windows[1:], right=True)
        self.register_buffer("mask", index[:, None] == index[None, :])
        positions = get_vision_position_ids(grid, self._merge)
        self.register_buffer("position_ids", positions.reshape(-1, unit, 2)[order].reshape(-1, 2))
        self._deep: list[int] = list(getattr(self.tower, "deepstack_visual_indexes", ()))
        added = torch.zeros(1, 1)
        if hasattr(self.tower, "pos_embed"):
            indices, weights = get_vision_interpolation_indices_and_weights(
                grid,
                num_grid_per_side=self.tower.num_grid_per_side,
                mode=self.tower.interpolation_mode,
                align_corners=self.tower.interpolation_align_corners,
                spatial_merge_size=self._merge,
            )
            with torch.no_grad():
                added = (self.tower.pos_embed(indices) * weights[:, :, None]).sum(1)
        self.register_buffer("added", added)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] to visual tokens [B, N, D], those of deeper layers side by side."""
        hidden = self._patches(images) + self.added
        hidden = hidden.reshape(hidden.shape[0], self._edge**2, self._merge**2, -1)[:, self.order].flatten(1, 2)
        cos, sin = self.tower.rotary_pos_emb(hidden, self.position_ids)
        deep = []
        for number, block in enumerate(self.tower.blocks):
            mask = None if number in self._everywhere else self.mask
            hidden = hidden + self._attend(block.attn, block.norm1(hidden), cos, sin, mask)
            hidden = hidden + block.mlp(block.norm2(hidden))
            if number in self._deep:
                deep.append(self._merged(self.tower.deepstack_merger_list[self._deep.index(number)], hidden))
        return torch.cat([self._merged(self.tower.merger, hidden), *deep], dim=-1)

    def _patches(self, images: Tensor) -> Tensor:
        """Embedded patches [B, L, C], those that are merged next to each other; an image is seen twice, as a video."""
        patch, merge, edge = self._patch, self._merge, self._edge
        cut = images.reshape(-1, 3, edge, merge, patch, edge, merge, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
        cut = cut.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, self._repeats, -1, -1)
        embedded: Tensor = self.tower.patch_embed(cut.reshape(-1, 3 * self._repeats * patch * patch))
        return embedded.reshape(images.shape[0], (edge * merge) ** 2, -1)

    def _merged(self, merger: nn.Module, hidden: Tensor) -> Tensor:
        """Tokens [B, N, D] in the order of the image."""
        merged: Tensor = merger(hidden.flatten(0, 1))
        return merged.reshape(hidden.shape[0], self._edge**2, -1)[:, self.back]

    def _attend(self, attention: Any, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        shape = (*hidden.shape[:2], 3, attention.num_heads, attention.head_dim)
        query, key, value = attention.qkv(hidden).reshape(shape).unbind(2)
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        found = functional.scaled_dot_product_attention(query, key, value, mask, scale=attention.scaling)
        mixed: Tensor = attention.proj(found.transpose(1, 2).flatten(2))
        return mixed


TOWERS: Final[dict[str, Callable[[Any, int], nn.Module]]] = {
    "smolvlm": lambda model, _: LastLayer(model.model.vision_model, model.model.connector),
    "idefics3": lambda model, _: LastLayer(model.model.vision_model, model.model.connector),
    "llava": lambda model, _: ChosenLayers(model.model, model.config),
    "llava_next": lambda model, _: TileAndView(model.model, model.config),
    "llava_onevision": lambda model, _: TileAndView(model.model, model.config),
    "fast_vlm": lambda model, _: LastLayer(model.model.vision_tower, model.model.multi_modal_projector),
    "qwen2_5_vl": lambda model, size_px: PackedPatches(model.model, model.config, size_px),
    "qwen3_vl": lambda model, size_px: PackedPatches(model.model, model.config, size_px),
    "internvl": lambda model, _: Shuffled(model.model, model.config),
    "gemma3": lambda model, _: LastLayer(model.model.vision_tower, model.model.multi_modal_projector),
    "paligemma": lambda model, _: LastLayer(model.model.vision_tower, model.model.multi_modal_projector),
    "blip-2": lambda model, _: Queried(model),
}
"""By ``model_type``: from a model and the edge of an image to the module that reads it."""


def tower_of(model: Any, size_px: int) -> nn.Module:
    """From normalised images [B, 3, S, S] of this size to visual tokens [B, N, D], by the model's own parts.

    Raises:
        ArtifactError: its family has no tower here, or the model lacks a part of it.
    """
    make = TOWERS.get(model.config.model_type)
    if make is None:
        known = ", ".join(TOWERS)
        raise ArtifactError(
            type(model).__name__,
            f"codecs are made for models of type {known}, not {model.config.model_type!r}: add its tower to "
            "training/codec/towers.py",
        )
    try:
        return make(model, size_px)
    except AttributeError as error:
        raise ArtifactError(type(model).__name__, f"is no whole {model.config.model_type} model: {error}") from error
