"""What a batch is compared with: transformers' own ``generate``, called for one question after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cloud_workers.inference.adapter import ModelAdapter, Question
from cloud_workers.inference.registry import FAMILIES
from cloud_workers.prefix_store import PrefixStore
from pipeline.protocol.effects import InferencePass
from pipeline.protocol.worker_work import ANSWER_TOKENS


class GenerateOneByOne:
    """Decodes a frame and generates an answer for each question anew, as a script around the model would.

    Prompts are tokenized before, so that only decoder and model are timed. To be used in the model's thread.

    Args:
        vlm: the model.
        store: decodes latents.
    """

    def __init__(self, vlm: ModelAdapter, store: PrefixStore) -> None:
        self._vlm = vlm
        self._store = store
        self._family = FAMILIES[vlm.family]
        self._prompts: dict[Question, dict[str, torch.Tensor]] = {}

    def prepare(self, passes: list[InferencePass]) -> None:
        """Tokenize the questions of all passes."""
        for inference_pass in passes:
            for query in inference_pass.queries:
                question = (query.text, query.answer_type)
                if question not in self._prompts:
                    self._prompts[question] = self._tokenized(query.text)

    @torch.inference_mode()
    def run(self, passes: list[InferencePass]) -> list[str]:
        """Texts of all answers, in order."""
        return [
            self._answer(inference_pass, (query.text, query.answer_type))
            for inference_pass in passes
            for query in inference_pass.queries
        ]

    def _tokenized(self, text: str) -> dict[str, torch.Tensor]:
        size_px = self._vlm.frame_size_px
        blank = np.zeros((size_px, size_px, 3), dtype=np.uint8)
        prompt = self._family.prompt(self._vlm.processor, text)
        inputs = dict(self._vlm.processor(text=prompt, images=[blank], return_tensors="pt"))
        read = {"input_ids", "attention_mask"} | self._family.prompt_inputs
        return {name: value.to(self._vlm.model.device) for name, value in inputs.items() if name in read}

    def _answer(self, inference_pass: InferencePass, question: Question) -> str:
        model: Any = self._vlm.model
        symbols = self._store.symbols(inference_pass)
        tokens = self._store.tokens([symbols], [inference_pass.stop]).to(device=model.device, dtype=model.dtype)
        inputs = self._prompts[question]
        ids = model.generate(
            **inputs,
            mm_encoder_outputs={"image": self._family.inject(list(tokens), model.config)},
            do_sample=False,
            max_new_tokens=ANSWER_TOKENS[question[1]],
        )
        text: str = self._vlm.processor.tokenizer.decode(
            ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return text
