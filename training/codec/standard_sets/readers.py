"""Question files of POPE, VQAv2 and GQA, and files of the same form.

::

    pope   JSON lines {"question_id", "image", "text", "label"}
    vqav2  {"questions": [{"question_id", "image_id", "question"}]} and, in a second file,
           {"annotations": [{"question_id", "answers": [{"answer"}, ...]}]}
    gqa    {id: {"imageId", "question", "answer"}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from schemas.errors import ArtifactError, ConfigError
from schemas.types import AnswerType

SetName: TypeAlias = Literal["pope", "vqav2", "gqa"]
_MAX_FILE_BYTES: Final = 1 << 30
_DIGITS: Final = re.compile(r"(\d+)$")


@dataclass(frozen=True, slots=True)
class SetQuestion:
    """One question of a standard set.

    Attributes:
        question_id: As in the file.
        image: File name, or the number or id of an image, see `image_key`.
        text: The question.
        answer_type: What the model is asked for.
        answers: What people answered; one where there is one right answer.
    """

    question_id: str
    image: str
    text: str
    answer_type: AnswerType
    answers: tuple[str, ...]


def set_name(text: str) -> SetName:
    """The name of a set that is known.

    Raises:
        ConfigError: it is not.
    """
    for name in get_args(SetName):
        if text == name:
            return name  # type: ignore[no-any-return]
    raise ConfigError("set", f"{text!r} is none of {', '.join(get_args(SetName))}")


def read_set(name: SetName, questions: Path, annotations: Path | None = None) -> list[SetQuestion]:
    """Questions of a file, in its order.

    Args:
        name: Its form.
        questions: The file.
        annotations: Of VQAv2 the second file; the others have none.

    Raises:
        ConfigError: a file too many or too few, or an entry that lacks something; the message names it.
        ArtifactError: a file cannot be read.
    """
    if (annotations is not None) != (name == "vqav2"):
        needed = "needs --annotations" if name == "vqav2" else "has its answers in the file of questions"
        raise ConfigError("--annotations", f"{name} {needed}")
    if name == "pope":
        return list(_entries(questions, _json_lines(questions), _pope))
    if name == "gqa":
        found = _json(questions)
        if not isinstance(found, dict):
            raise ConfigError(str(questions), 'is no object {"id": {"imageId": ..., "question": ..., "answer": ...}}')
        return list(_entries(questions, found.items(), lambda row: _gqa(str(row[0]), row[1])))
    answers = _vqa_answers(annotations) if annotations is not None else {}
    return list(_entries(questions, _list(questions, "questions"), lambda row: _vqa(row, answers)))


def image_key(name: str) -> str:
    """What an image is found by: its number without leading zeros where its name ends in one, else its stem.

    ``COCO_val2014_000000000042.jpg``, ``000000000042.jpg`` and ``42`` are one image.
    """
    stem = (
        Path(name).stem if Path(name).suffix.lower() in {".jpg", ".jpeg", ".png", ".webp", ".bmp"} else Path(name).name
    )
    digits = _DIGITS.search(stem)
    whole = stem.isdigit() or stem.upper().startswith("COCO_")
    return digits[1].lstrip("0") or "0" if digits and whole else stem


def _pope(row: Any) -> SetQuestion:
    return SetQuestion(
        str(row["question_id"]), str(row["image"]), str(row["text"]), AnswerType.YES_NO, (str(row["label"]).lower(),)
    )


def _gqa(question_id: str, row: Any) -> SetQuestion:
    answer = str(row["answer"])
    kind = AnswerType.YES_NO if answer.lower() in {"yes", "no"} else AnswerType.WORD
    return SetQuestion(question_id, str(row["imageId"]), str(row["question"]), kind, (answer,))


def _vqa(row: Any, answers: Mapping[str, tuple[str, ...]]) -> SetQuestion:
    question_id = str(row["question_id"])
    text = str(row["question"])
    # By the question alone: the type in the annotations would tell the model what people answered.
    first = text.lower().split()[:2]
    kind = AnswerType.WORD
    if first == ["how", "many"]:
        kind = AnswerType.COUNT
    elif first[:1] and first[0] in {"is", "are", "was", "were", "do", "does", "did", "can", "could", "has", "have"}:
        kind = AnswerType.YES_NO
    return SetQuestion(question_id, str(row["image_id"]), text, kind, answers[question_id])


def _vqa_answers(path: Path) -> dict[str, tuple[str, ...]]:
    found = {}
    for number, row in enumerate(_list(path, "annotations"), start=1):
        try:
            found[str(row["question_id"])] = tuple(str(answer["answer"]) for answer in row["answers"])
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{path}, entry {number}", f"lacks {error}") from error
    return found


def _entries(path: Path, rows: Any, read: Callable[[Any], SetQuestion]) -> Iterator[SetQuestion]:
    for number, row in enumerate(rows, start=1):
        try:
            question = read(row)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{path}, entry {number}", f"lacks {error}") from error
        if not question.answers or not question.text.strip():
            raise ConfigError(f"{path}, entry {number}", "has no question or no answer")
        yield question


def _list(path: Path, key: str) -> list[Any]:
    found = _json(path)
    rows = found.get(key) if isinstance(found, dict) else None
    if not isinstance(rows, list):
        raise ConfigError(str(path), f'holds no list "{key}"')
    return rows


def _json_lines(path: Path) -> Iterator[Any]:
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{path}:{number}", f"is not JSON: {error}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"is not JSON: {error}") from error


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ArtifactError(str(path), f"is larger than {_MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(str(path), f"questions cannot be read: {error}") from error
