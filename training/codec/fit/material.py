"""What codecs learn from and are measured on: visual tokens, questions, and the language model's own answers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_workers.inference.registry import family_of
from schemas.errors import StateError
from training.codec.fit.language_view import AnswerView, Questions, Reference
from training.codec.fit.prompt_view import PromptParts, view_of

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
        inputs: What the model reads of a prompt beside token ids, see `PromptParts`.
    """

    tokens: Tensor
    prefix: tuple[int, ...]
    frames: Tensor
    questions: Questions
    reference: Reference
    kinds: tuple[str, ...]
    kind: Tensor
    inputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def prompts(self) -> PromptParts:
        """What prompts have in common."""
        return PromptParts(self.prefix, self.inputs)

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

    def save(self, folder: Path, *, with_tokens: bool = True) -> None:
        """Write it, for processes that learn from it side by side; tokens may lie in a file of their own."""
        folder.mkdir(parents=True, exist_ok=True)
        if with_tokens:
            np.save(folder / _TOKENS, self.tokens.cpu().numpy())
        content: dict[str, Any] = {
            "prefix": list(self.prefix),
            "frames": self.frames,
            "kinds": list(self.kinds),
            "kind": self.kind,
            "questions": asdict(self.questions),
            "reference": asdict(self.reference),
            "inputs": {name: torch.from_numpy(values.copy()) for name, values in self.inputs.items()},
        }
        partial = (folder / _ASKED).with_suffix(".partial")
        torch.save(content, partial)
        partial.replace(folder / _ASKED)

    @classmethod
    def load(cls, folder: Path, device: str | torch.device, tokens: Tensor | None = None) -> Self:
        """Read what `save` wrote.

        Args:
            folder: That it was written to.
            device: Where it is used.
            tokens: That lie in a file of their own.
        """
        content = torch.load(folder / _ASKED, weights_only=True, map_location=device)
        return cls(
            torch.from_numpy(np.load(folder / _TOKENS)).to(device) if tokens is None else tokens,
            tuple(content["prefix"]),
            content["frames"],
            Questions(**content["questions"]),
            Reference(**content["reference"]),
            tuple(content["kinds"]),
            content["kind"],
            {name: values.cpu().numpy() for name, values in content["inputs"].items()},
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
        model: A model of a registered family; only its language model runs.
        processor: Its processor, left as it is.
        learning: Tokens and questions; tokens may lie elsewhere than the model, or in a file.
        frames: How many frames at most.
        questions: How many questions about each at most.
        answer_tokens: How many tokens of an answer are looked at.
        tiles_per_edge: As in `CodecSpec`.
        frame_size_px: Edge of a tile; None for what is usual in the family.

    Raises:
        StateError: no frame has a question.
    """
    asked = to_ask(
        model,
        processor,
        learning,
        frames=frames,
        questions=questions,
        tiles_per_edge=tiles_per_edge,
        frame_size_px=frame_size_px,
    )
    tokens = learning.tokens
    reference = asked.view.reference(
        tokens[asked.frames.to(tokens.device)], asked.questions, answer_tokens=answer_tokens
    )
    return asked.material(tokens, reference)


@dataclass(frozen=True, slots=True)
class ToAsk:
    """Questions about frames, encoded and not asked yet; the last four as of `Material`."""

    view: AnswerView
    prompts: PromptParts
    frames: Tensor
    questions: Questions
    kinds: tuple[str, ...]
    kind: Tensor

    def material(self, tokens: Tensor, reference: Reference) -> Material:
        """With the answers to them."""
        return Material(
            tokens,
            self.prompts.prefix,
            self.frames,
            self.questions,
            reference,
            self.kinds,
            self.kind,
            self.prompts.inputs,
        )


def to_ask(
    model: Any,
    processor: Any,
    learning: LearningSet,
    *,
    frames: int,
    questions: int,
    tiles_per_edge: int = 1,
    frame_size_px: int | None = None,
) -> ToAsk:
    """Choose and encode questions; arguments and errors as of `ask`."""
    own = copy.deepcopy(processor)
    family = family_of(model.config, "the VLM")
    prompts = family.prompts(model, own, source="the VLM", tiles_per_edge=tiles_per_edge, frame_size_px=frame_size_px)
    parts = PromptParts(prompts.prefix, prompts.inputs)
    view = view_of(model, parts)
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
    encoded = view.encode(texts, questions, prompts.suffix)
    where = torch.tensor(asked, device=view.device)
    return ToAsk(view, parts, where, encoded, tuple(names), kind.to(view.device))


def training_material(source: FrameSource, vlm: ModelAdapter, budget: CodecBudget) -> Material:
    """Training frames with the model's own answers, on the run's device; the model is moved there."""
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
