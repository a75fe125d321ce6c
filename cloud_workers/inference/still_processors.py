"""Processors of transformers for still images: what videos need, torchvision above all, is left out."""

from __future__ import annotations

from functools import cache
from typing import Any

from transformers import AutoProcessor, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING


class _NoVideos:
    """What some chat templates ask a video processor for."""

    num_frames: int | None = None
    fps: float | None = None


@cache
def for_stills(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A processor class without its video processor; the class itself where it has none.

    Args:
        kind: takes image processor, tokenizer and video processor, in this order.
    """
    if "video_processor" not in kind.get_attributes():
        return kind

    class ForStills(kind):  # type: ignore[misc]
        video_processor = _NoVideos

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            return [*super()._get_arguments_from_pretrained(*args, **kwargs), None]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            still = {key: value for key, value in processor_dict.items() if key != "video_processor"}
            return super().from_args_and_dict(args, still, **kwargs)

    # It is saved under the name of the class that users load.
    ForStills.__name__ = ForStills.__qualname__ = kind.__name__
    return ForStills


def load_processor(source: str, config: Any, *, revision: str | None = None) -> Any:
    """A model's own processor, without videos.

    Args:
        source: folder or hub id.
        config: of the model.
        revision: commit, tag or branch on the hub; None for its main one.

    Raises:
        Exception: whatever transformers raises.
    """
    pinned = {} if revision is None else {"revision": revision}
    try:
        return AutoProcessor.from_pretrained(source, trust_remote_code=False, **pinned)
    except (ImportError, OSError, ValueError):  # torchvision is absent, or the file of a video processor
        kind = PROCESSOR_MAPPING.get(type(config), None)
        if kind is None or for_stills(kind) is kind:
            raise
        return for_stills(kind).from_pretrained(source, **pinned)
