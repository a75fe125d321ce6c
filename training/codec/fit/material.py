"""What codecs learn from and are measured on: visual tokens, questions, and the language model's own answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_workers.inference.registry import family_of
from schemas.errors import ArtifactError, StateError
from training.codec.fit.language_view import LanguageView, Questions, Reference

if TYPE_CHECKING:
    from cloud_workers.inference.adapter import ModelAdapter
    from training.codec.config import CodecBudget
    from training.codec.data import AskedFrames
    from training.codec.frame_source import FrameSource

_TOKENS: Final = "tokens.npy"
_ASKED: Final = "asked.pt"


@dataclass(frozen=True, slots=True)
class LearningSet:
    """Visual tokens and the questions that the language model is asked about them.

    Attributes:
        tokens: Uncompressed visual tokens, float16 [F, N, D].
        questions: Texts of the questions about each frame.
        kinds: Their kinds.
    """

    tokens: Tensor
    questions: Sequence[Sequence[str]]
    kinds: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of(cls, tokens: Tensor, data: AskedFrames) -> Self:
        """Tokens of asked frames, in the same order.

        Raises:
            StateError: of another number of frames.
        """
        if len(tokens) != len(data):
            raise StateError(f"tokens of {len(tokens)} frames for {len(data)} frames")
        questions: list[list[str]] = [[] for _ in range(len(tokens))]
        kinds: list[list[str]] = [[] for _ in range(len(tokens))]
        for item in data.asked:
            questions[item.frame].append(item.text)
            kinds[item.frame].append(item.kind)
        return cls(tokens, questions, kinds)


@dataclass(frozen=True, slots=True)
class Material:
    """What one training run learns from, on the device that it runs on.

    Attributes:
        tokens: Uncompressed visual tokens, float16 [F, N, D].
        prefix: Token ids of the prompts up to the last image placeholder.
        frames: Which of them questions are asked about, int64 [A].
        questions: Those questions, A rows; None without any.
        reference: The model's own answers to them.
        kinds: Names of kinds of questions.
        kind: Which kind each question is, -1 where nothing is asked, int64 [A, Q].
    """

    tokens: Tensor
    prefix: tuple[int, ...]
    frames: Tensor
    questions: Questions
    reference: Reference
    kinds: tuple[str, ...]
    kind: Tensor

    def without(self, unseen: Sequence[str]) -> Material:
        """The same, with some kinds of questions left out of every loss."""
        left_out = torch.zeros_like(self.questions.asked)
        for name in unseen:
            if name in self.kinds:
                left_out |= self.kind == self.kinds.index(name)
        return replace(
            self,
            questions=replace(self.questions, asked=self.questions.asked & ~left_out),
            reference=replace(self.reference, counts=self.reference.counts & ~left_out[:, :, None]),
        )

    def kind_names(self) -> NDArray[np.str_]:
        """Kind of each question [A, Q], empty where nothing is asked."""
        names: NDArray[np.str_] = np.array([*self.kinds, ""])[self.kind.cpu().numpy()]
        return names

    def save(self, folder: Path) -> None:
        """Write it, for processes that learn from it side by side."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / _TOKENS, self.tokens.cpu().numpy())
        content: dict[str, Any] = {
            "prefix": list(self.prefix),
            "frames": self.frames,
            "kinds": list(self.kinds),
            "kind": self.kind,
            "questions": asdict(self.questions),
            "reference": asdict(self.reference),
        }
        partial = (folder / _ASKED).with_suffix(".partial")
        torch.save(content, partial)
        partial.replace(folder / _ASKED)

    @classmethod
    def load(cls, folder: Path, device: str | torch.device) -> Self:
        """Read what `save` wrote."""
        content = torch.load(folder / _ASKED, weights_only=True, map_location=device)
        return cls(
            torch.from_numpy(np.load(folder / _TOKENS)).to(device),
            tuple(content["prefix"]),
            content["frames"],
            Questions(**content["questions"]),
            Reference(**content["reference"]),
            tuple(content["kinds"]),
            content["kind"],
        )

    @staticmethod
    def is_saved(folder: Path) -> bool:
        """Whether `save` has finished there."""
        return (folder / _ASKED).exists()


def ask(
    model: Any,
    processor: Any,
    learning: LearningSet,
    *,
    frames: int,
    questions: int,
    answer_tokens: int,
    tiles_per_edge: int = 1,
    frame_size_px: int | None = None,
) -> Material:
    """Ask the frozen model about frames, each of which has another part of its questions if there are too many.

    Args:
        model: A model of a registered family, on the tokens' device; only its language model runs.
        processor: Its processor, left as it is.
        learning: Tokens and questions.
        frames: How many frames at most.
        questions: How many questions about each at most.
        answer_tokens: How many tokens of an answer are looked at.
        tiles_per_edge: As in `CodecSpec`.
        frame_size_px: Edge of a tile; None for what is usual in the family.
    """
    own = copy.deepcopy(processor)
    family = family_of(model.config, "the VLM")
    prompts = family.prompts(model, own, source="the VLM", tiles_per_edge=tiles_per_edge, frame_size_px=frame_size_px)
    view = LanguageView(model.eval().requires_grad_(False), prompts.prefix)
    asked = [frame for frame, texts in enumerate(learning.questions) if texts][:frames]
    names = sorted({name for frame in asked for name in learning.kinds[frame]})
    texts: list[list[str]] = []
    kind = torch.full((len(asked), questions), -1, dtype=torch.long)
    for row, frame in enumerate(asked):
        count = len(learning.questions[frame])
        chosen = [(row + place) % count for place in range(min(count, questions))]
        texts.append([learning.questions[frame][index] for index in chosen])
        kind[row, : len(chosen)] = torch.tensor([names.index(learning.kinds[frame][index]) for index in chosen])
    if not asked:
        raise StateError("none of the frames has a question")
    device = learning.tokens.device
    encoded = view.encode(texts, questions, prompts.suffix)
    where = torch.tensor(asked, device=device)
    reference = view.reference(learning.tokens[where], encoded, answer_tokens=answer_tokens)
    return Material(learning.tokens, prompts.prefix, where, encoded, reference, tuple(names), kind.to(device))


def check_learnable(vlm: ModelAdapter, vlm_dir: Path) -> None:
    """Make sure that a codec can be trained on what the language model makes of it.

    Raises:
        ArtifactError: it reads prompts in another way than `LanguageView` does.
    """
    family = family_of(vlm.model.config, str(vlm_dir))
    if not family.plain_prompts:
        raise ArtifactError(
            str(vlm_dir),
            f"{family.name}: a Meta AutoEncoder is trained for language models of plain positions and causal "
            "attention; make a KLT codec for this one",
        )


def training_material(source: FrameSource, vlm: ModelAdapter, vlm_dir: Path, budget: CodecBudget) -> Material:
    """Training frames with the model's own answers, on the run's device; the model is moved there.

    Raises:
        ArtifactError: see `check_learnable`.
    """
    check_learnable(vlm, vlm_dir)
    run = source.run
    frames, tokens = source.with_tokens("train", budget.train_frames)
    run.progress(f"tokens of {len(tokens)} frames are ready")
    material = ask(
        vlm.model.to(run.device),
        vlm.processor,
        LearningSet.of(tokens.to(run.device), frames),
        frames=budget.asked_frames,
        questions=budget.view_questions,
        answer_tokens=budget.answer_tokens,
        tiles_per_edge=source.frozen.tiles_per_edge,
        frame_size_px=source.frozen.tile_px,
    )
    run.progress(f"the model's own answers about {len(material.frames)} frames are ready")
    return material
