"""The truth beside a rendered clip: a JSON file with its questions and their answers frame by frame."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.scenes.catalogue import QuestionKind
from pipeline.scenes.questions import QuestionSpec, Relation
from schemas.errors import ArtifactError
from schemas.problems import problem_text

SIDECAR_VERSION: Final = 1
SIDECAR_SUFFIX: Final = ".truth.json"

_PositiveInt = Annotated[int, Field(gt=0)]


class ClipQuestion(BaseModel):
    """A standing question of a clip: the fields of `QuestionSpec` and its id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(min_length=1)]
    text: str
    kind: QuestionKind
    object_kind: str
    color: str | None
    other_kind: str | None = None
    other_color: str | None = None
    relation: Relation | None = None

    @property
    def spec(self) -> QuestionSpec:
        """The question without its id."""
        return QuestionSpec(
            self.kind, self.object_kind, self.color, self.text, self.other_kind, self.other_color, self.relation
        )

    @classmethod
    def of(cls, question_id: str, spec: QuestionSpec) -> ClipQuestion:
        """A question with its id."""
        return cls(
            id=question_id,
            text=spec.text,
            kind=spec.kind,
            object_kind=spec.object_kind,
            color=spec.color,
            other_kind=spec.other_kind,
            other_color=spec.other_color,
            relation=spec.relation,
        )


class ClipTruth(BaseModel):
    """What is true in a clip.

    Attributes:
        version: Version of this format.
        camera: Name of the camera that the clip stands for.
        seed: Seed of the `SceneClip`.
        fps: Frames a second.
        size: Height and width in pixels.
        duration_s: Length in seconds.
        questions: Standing questions.
        truths: For every frame the answer to each question, in the order of `questions`; null where none is clear.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    camera: str
    seed: int
    fps: Annotated[float, Field(gt=0)]
    size: _PositiveInt
    duration_s: Annotated[float, Field(gt=0)]
    questions: tuple[ClipQuestion, ...]
    truths: tuple[tuple[str | None, ...], ...]

    @model_validator(mode="after")
    def _rows_fit(self) -> ClipTruth:
        for index, row in enumerate(self.truths):
            if len(row) != len(self.questions):
                raise ValueError(f"frame {index} has {len(row)} answers to {len(self.questions)} questions")
        if len({question.id for question in self.questions}) != len(self.questions):
            raise ValueError("question ids repeat")
        return self

    @property
    def frame_count(self) -> int:
        """Number of frames."""
        return len(self.truths)

    def truth(self, frame_index: int, question_id: str) -> str | None:
        """The true answer at a frame, or None where there is no clear one.

        Raises:
            KeyError: A question that the clip does not have.
            IndexError: A frame that it does not have.
        """
        for column, question in enumerate(self.questions):
            if question.id == question_id:
                return self.truths[frame_index][column]
        raise KeyError(question_id)


def sidecar_path(clip_path: Path) -> Path:
    """Where the truth of a clip lies: `gate.mp4` has `gate.truth.json`."""
    return clip_path.with_suffix(SIDECAR_SUFFIX)


def write_sidecar(clip_path: Path, truth: ClipTruth) -> Path:
    """Write the truth beside a clip and return its path."""
    path = sidecar_path(clip_path)
    path.write_text(truth.model_dump_json() + "\n", encoding="utf-8")
    return path


def read_sidecar(path: Path) -> ClipTruth:
    """Read the truth of a clip.

    Args:
        path: The clip or its sidecar.

    Raises:
        ArtifactError: The sidecar is missing, no JSON, of another version, or inconsistent.
    """
    source = path if path.name.endswith(SIDECAR_SUFFIX) else sidecar_path(path)
    try:
        return ClipTruth.model_validate_json(source.read_bytes())
    except OSError as error:
        raise ArtifactError(str(source), f"cannot be read ({error.strerror}); write_clip makes it") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise ArtifactError(str(source), f"{where}: {problem_text(dict(first))}; write the clip again") from error
