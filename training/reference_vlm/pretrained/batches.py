"""Batches of fresh frames with everything that is said about them. A batch depends on seed and step alone.

Nothing is cached: a frame takes less time to draw than to learn from, no frame comes twice, and a run that goes on
needs its step only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pipeline.scenes.catalogue import COLORS, QuestionKind
from pipeline.scenes.everyday import EVERYDAY_TRAIN_SEEDS, sample_everyday_scene, training_question
from pipeline.scenes.photographs import PhotoLibrary, sample_photo_scene
from pipeline.scenes.phrasings import DESCRIBE_PHRASINGS, with_color
from pipeline.scenes.questions import RELATION_MARGIN, QuestionSpec, SeenObject, matching
from pipeline.scenes.scene import Scene, sample_scene
from training.reference_vlm.captions import CAPTION_PROMPT, caption_of, description_of
from training.reference_vlm.degrade import degrade
from training.reference_vlm.dense_labels import IGNORE, dense_labels
from training.reference_vlm.frames import SEED_STRIDE, TRAIN_SEEDS, render_degraded
from training.reference_vlm.pretrained.model import COLUMN_PLACES, PLACES, ROW_PLACES, VlmSize, third_vocabulary
from training.reference_vlm.text_blocks import AnyScene
from training.reference_vlm.tokenizer import END, prompt_text

QUESTION_MIX: Final[tuple[QuestionKind, ...]] = (
    "relation", "position", "count", "existence", "relation", "color", "position", "count",
    "relation", "existence", "activity", "relation", "count", "position", "existence", "relation",
)  # fmt: skip
"""Kinds of the questions of one frame; relations most, since every one needs two objects found and compared."""

LIST_PROMPTS: Final = ("List the objects from left to right.", "List the objects from near to far.")
PLACE_PROMPTS: Final = ("In which column is the {thing}?", "In which row is the {thing}?")
MOST_COUNTED: Final = 6
_TEXT_TOKENS: Final = 140
_HARD_SEED_OFFSET: Final = 100_000_000
"""Scenes that the second reference VLM was trained with come first; its held-out ones are never drawn."""
_PREFIX: Final = 0
_PADDING: Final = -1
_MENTIONED: Final = 6

Mention: TypeAlias = tuple[int, tuple[int, int, int, int, int, int], tuple[int, ...]]
"""Place of a word that names an object in its sequence, what `TextBatch.mentions` says of it, and the visual tokens
that hold the centres of the objects that fit."""
Text: TypeAlias = tuple[str, str, QuestionSpec | None]
"""Prompt, answer, and the question where it is one."""


@dataclass(frozen=True, slots=True)
class SceneMix:
    """Shares of the kinds of scenes in a batch; what is left are everyday scenes.

    Attributes:
        pairs: Everyday scenes of two objects at most.
        hard: Hard scenes.
        photographs: Frames of photographs, where there is a library.
    """

    pairs: float = 0.15
    hard: float = 0.35
    photographs: float = 0.1


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Frames and their dense labels.

    Attributes:
        frames: uint8 [B, S, S, 3].
        labels: int64 [B, 6, N], places in `PLACES` rows and columns.
        scenes: What they show.
    """

    frames: Tensor
    labels: Tensor
    scenes: list[AnyScene]


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Texts about the frames of a batch, packed behind the image so that none sees another.

    Attributes:
        ids: Token ids int64 [B, L], the image's placeholders among them.
        positions: Position ids int64 [B, L]; every text starts anew behind the image.
        owners: Which text a token belongs to, int64 [B, L]; 0 is the image prefix, -1 padding.
        targets: The next token where the model must say it, -100 elsewhere, int64 [B, L].
        mentions: Of the object that a token names: its column, its row, how many there are, how the object that
            was named before lies to it, horizontally and vertically (0 less, 1 too near to tell, 2 more), and the
            colour that it is named with (after the last: none), -100 where unknown, int64 [B, L, 6].
        pointed: The visual tokens that hold the centre of an object that fits, of every token that names one, in the
            order of rows and places, float32 [M, N + 1]: shares that add up to one, the last for no such object.
    """

    ids: Tensor
    positions: Tensor
    owners: Tensor
    targets: Tensor
    mentions: Tensor
    pointed: Tensor

    def to(self, device: torch.device) -> TextBatch:
        """The same on a device."""
        parts = (self.ids, self.positions, self.owners, self.targets, self.mentions, self.pointed)
        return TextBatch(*(part.to(device) for part in parts))

    @property
    def visible(self) -> Tensor:
        """What each token attends to, bool [B, 1, L, L]: the prefix and its own text, backwards."""
        same = self.owners[:, :, None] == self.owners[:, None, :]
        seen = same | (self.owners == _PREFIX)[:, None, :]
        return (seen & torch.ones(seen.shape[1:], dtype=torch.bool, device=seen.device).tril())[:, None]


def draw_frames(
    seed: int, stage: int, step: int, batch: int, mix: SceneMix, size: VlmSize, photos: PhotoLibrary | None
) -> FrameBatch:
    """Draw the frames of a step.

    Args:
        seed: Of the training.
        stage: Number of the stage; no two stages share frames.
        step: Number of the step.
        batch: Frames.
        mix: Kinds of scenes.
        size: Of the model.
        photos: Library of photographs, if any.
    """
    rng = np.random.default_rng([seed, stage, step])
    vocabulary = third_vocabulary()
    frames = np.empty((batch, size.image_size, size.image_size, 3), dtype=np.uint8)
    labels, scenes = [], list[AnyScene]()
    for row in range(batch):
        number = (seed * 8 + stage) * 10_000_000 + step * batch + row
        draw = rng.random()
        scene: AnyScene
        if photos is not None and draw < mix.photographs:
            frame, scene = sample_photo_scene(TRAIN_SEEDS + number, photos, "train", size=size.image_size)
            frames[row] = degrade(frame, rng)
        else:
            scene = drawn = _rendered(number, draw - mix.photographs, mix)
            frames[row] = render_degraded(drawn, size.image_size, rng)
        labels.append(dense_labels(scene, size.grid, vocabulary, bins=PLACES).reshape(-1, size.image_tokens))
        scenes.append(scene)
    return FrameBatch(torch.from_numpy(frames), torch.from_numpy(np.stack(labels)).long(), scenes)


def _rendered(number: int, draw: float, mix: SceneMix) -> Scene:
    if draw < mix.hard:
        return sample_scene(TRAIN_SEEDS + SEED_STRIDE + _HARD_SEED_OFFSET + number % 700_000_000)
    pairs = draw < mix.hard + mix.pairs
    return sample_everyday_scene(EVERYDAY_TRAIN_SEEDS + number % 900_000_000, max_objects=2 if pairs else 5)


class TextPacker:
    """Turns what is said about frames into packed sequences.

    Args:
        tokenizer: From `third_tokenizer`.
        prefix: Token ids up to the last placeholder, from `image_prefix`.

    Raises:
        ValueError: The placeholders of the prefix are those of no square grid.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, prefix: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._prefix = list(prefix)
        places = self._prefix.count(self._prefix[-1])
        self._grid = math.isqrt(places)
        if self._grid**2 != places:
            raise ValueError(f"the prefix has {places} placeholders of visual tokens, not a square number")
        self._known: dict[str, list[int]] = {}
        vocabulary = third_vocabulary()
        self._kind_ids = {
            name: {tokenizer(f" {word}")["input_ids"][0] for word in (name, plural)}
            for name, plural in zip(vocabulary.kinds, vocabulary.plurals, strict=True)
        }

    def _encode(self, text: str) -> list[int]:
        ids = self._known.get(text)
        if ids is None:
            ids = self._known[text] = list(self._tokenizer(text)["input_ids"])
            if len(self._known) > 200_000:
                self._known.clear()
        return ids

    def texts(self, scene: AnyScene, rng: np.random.Generator, questions: int) -> list[Text]:
        """What is said about a frame: questions, a place, and a list, caption or description."""
        start = int(rng.integers(len(QUESTION_MIX)))
        said: list[Text] = []
        for number in range(questions):
            kind = QUESTION_MIX[(start + number) % len(QUESTION_MIX)]
            found = training_question(kind, scene, rng) or training_question("existence", scene, rng)
            if found is not None:
                said.append((found[0].text, f" {found[1]}", found[0]))
        if isinstance(scene, Scene):
            said.append(_place(scene, rng))
            if scene.objects and rng.random() < 0.6:
                said.append(_list(scene, rng))
        draw = rng.random()
        if draw < 0.12:
            said.append((CAPTION_PROMPT, caption_of(scene), None))
        elif draw < 0.24:
            prompt = DESCRIBE_PHRASINGS[int(rng.integers(len(DESCRIBE_PHRASINGS)))]
            said.append((prompt, f" {description_of(scene)}", None))
        return said

    def pack(self, scenes: Sequence[AnyScene], texts: Sequence[Sequence[Text]]) -> TextBatch:
        """Pack texts behind the image, those of each frame in one row.

        Args:
            scenes: One a row.
            texts: Of each scene; one that is longer than 140 tokens is left out.
        """
        start = len(self._prefix)
        rows = [self._row(scene, said) for scene, said in zip(scenes, texts, strict=True)]
        length = -(-max(len(row[0]) for row in rows) // 16) * 16
        ids = np.zeros((len(rows), length), dtype=np.int64)
        positions = np.tile(np.arange(length), (len(rows), 1))
        owners = np.full((len(rows), length), _PADDING, dtype=np.int64)
        targets = np.full((len(rows), length), IGNORE, dtype=np.int64)
        mentions = np.full((len(rows), length, _MENTIONED), IGNORE, dtype=np.int64)
        pointed: list[NDArray[np.float32]] = []
        for index, (row_ids, row_positions, row_owners, row_targets, row_mentions) in enumerate(rows):
            stop = len(row_ids)
            ids[index, :stop], positions[index, :stop] = row_ids, row_positions
            owners[index, :stop], targets[index, :stop] = row_owners, row_targets
            for place, found, cells in row_mentions:
                mentions[index, place] = found
                shares = np.zeros(self._grid**2 + 1, dtype=np.float32)
                shares[list(cells) or [-1]] = 1
                pointed.append(shares / shares.sum())
        owners[:, :start] = _PREFIX
        shown = np.stack(pointed) if pointed else np.zeros((0, self._grid**2 + 1), dtype=np.float32)
        tensors = (torch.from_numpy(array) for array in (ids, positions, owners, targets, mentions, shown))
        return TextBatch(*tensors)

    def _row(
        self, scene: AnyScene, said: Sequence[Text]
    ) -> tuple[list[int], list[int], list[int], list[int], list[Mention]]:
        start = len(self._prefix)
        ids, positions, owners = list(self._prefix), list(range(start)), [_PREFIX] * start
        targets: list[int] = [IGNORE] * start
        mentions: list[Mention] = []
        for number, (prompt, answer, question) in enumerate(said, start=1):
            asked = self._encode(prompt_text(prompt))
            whole = [*asked, *self._encode(f"{answer}{END}")]
            if len(whole) > _TEXT_TOKENS:
                continue
            if question is not None:
                found = self._mentions(question, scene, asked)
                mentions += [(len(ids) + place, known, cells) for place, known, cells in found]
            ids += whole
            positions += range(start, start + len(whole))
            owners += [number] * len(whole)
            targets += [IGNORE] * (len(asked) - 1) + whole[len(asked) :] + [IGNORE]
        return ids, positions, owners, targets, mentions

    def _mentions(self, question: QuestionSpec, scene: AnyScene, asked: Sequence[int]) -> list[Mention]:
        """Places of the words that name objects, and where those objects are."""
        found: list[Mention] = []
        after = 0
        before: SeenObject | None = None
        named = [(question.object_kind, question.color), (question.other_kind, question.other_color)]
        for kind, color in named:
            if kind is None:
                continue
            ids = self._kind_ids[kind]
            place = next((index for index in range(after, len(asked)) if asked[index] in ids), None)
            if place is None:
                continue
            after = place + 1
            objects = matching(scene, kind, color)
            column, row, across, along = IGNORE, IGNORE, IGNORE, IGNORE
            item = objects[0] if len(objects) == 1 else None
            if item is not None:
                column, row = int(item.x * PLACES), int(item.y * PLACES)
                if before is not None:
                    across, along = _order(before.x, item.x), _order(before.y, item.y)
            before = item
            said = len(COLORS) if color is None else list(COLORS).index(color)
            cells = {int(item.y * self._grid) * self._grid + int(item.x * self._grid) for item in objects}
            known = (column, row, min(len(objects), MOST_COUNTED), across, along, said)
            found.append((place, known, tuple(sorted(cells))))
        return found


def _order(first: float, second: float) -> int:
    """Whether the first is clearly less (0) or more (2) than the second, or neither (1)."""
    return 1 if abs(first - second) <= RELATION_MARGIN else 2 * int(first > second)


def _place(scene: Scene, rng: np.random.Generator) -> Text:
    """A question for the row or column of an object that its description fits alone."""
    alone = [item for item in scene.objects if len(scene.matching(item.kind, item.color)) == 1]
    if not alone:
        return CAPTION_PROMPT, caption_of(scene), None
    item = alone[int(rng.integers(len(alone)))]
    thing = with_color(item.kind, item.color)
    if rng.random() < 0.5:
        return PLACE_PROMPTS[0].format(thing=thing), f" {COLUMN_PLACES[int(item.x * PLACES)]}", None
    return PLACE_PROMPTS[1].format(thing=thing), f" {ROW_PLACES[int(item.y * PLACES)]}", None


def _list(scene: Scene, rng: np.random.Generator) -> Text:
    """The objects in the order of their columns, or from near to far."""
    near = bool(rng.random() < 0.5)
    ordered = sorted(scene.objects, key=lambda item: -item.box[3] if near else item.x)
    return LIST_PROMPTS[int(near)], ",".join(f" {with_color(item.kind, item.color)}" for item in ordered) + ".", None
