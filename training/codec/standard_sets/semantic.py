"""Semantic consistency: how alike two answers are to a sentence encoder, where equality is too strict.

The encoder is any model of the sentence-transformers kind by its folder: a transformer, mean pooling over the tokens,
vectors of length one. `all-MiniLM-L6-v2` is the usual one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from pipeline.codec.model_files import check_model_files
from schemas.errors import ArtifactError

_BATCH: Final = 64
_MOST_TOKENS: Final = 256


class SentenceEncoder:
    """Texts to vectors of length one; each text is computed once.

    Args:
        folder: Model and tokenizer.

    Raises:
        ArtifactError: it holds no such model.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ArtifactError(str(folder), "no such folder: give that of a sentence-transformers model")
        check_model_files(folder)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = str(error).strip().split("\n")[0]
            raise ArtifactError(str(folder), f"no usable sentence encoder ({problem})") from error
        self._model: Any = model.eval()
        self._known: dict[str, NDArray[np.float32]] = {}

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length one, float32 [T, D]."""
        new = sorted(set(texts) - set(self._known), key=len)
        for start in range(0, len(new), _BATCH):
            part = new[start : start + _BATCH]
            inputs = self._tokenizer(part, padding=True, truncation=True, max_length=_MOST_TOKENS, return_tensors="pt")
            hidden = self._model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][:, :, None].to(hidden.dtype)
            means = (hidden * mask).sum(1) / mask.sum(1).clamp_min(1e-9)
            vectors = torch.nn.functional.normalize(means, dim=1).numpy()
            self._known.update(zip(part, vectors, strict=True))
        return np.stack([self._known[text] for text in texts])

    def consistency(self, ours: Sequence[str], theirs: Sequence[str]) -> float:
        """Mean cosine between answers to the same questions, -1 to 1; equal answers have exactly 1."""
        if not len(ours):
            return float("nan")
        cosines = (self.encode(ours) * self.encode(theirs)).sum(axis=1)
        equal = np.array([a == b for a, b in zip(ours, theirs, strict=True)])
        return float(np.where(equal, 1.0, cosines).mean())
