"""The cameras of a demo: rendered clips with known truth, or the user's own videos."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_nodes.sources.video_reader import check_video
from latentbus.demo.options import DemoOptions
from latentbus.fleet.settings import EVERY_FRAME
from latentbus.options.arguments import made_of
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.scenes.catalogue import QuestionKind
from pipeline.scenes.motion import standing_questions
from pipeline.scenes.questions import QuestionSpec
from pipeline.scenes.sidecar import ClipTruth, read_sidecar, sidecar_path
from pipeline.scenes.video import write_clip
from schemas.errors import ArtifactError, ConfigError, SourceError
from schemas.types import AnswerType

CLIP_DURATION_S: Final = 60.0
CLIP_FPS: Final = 5.0
"""Enough to sample a frame a second at moments that differ; more would only make the first run longer."""
SITE: Final = "demo"
CAMERA_NAMES: Final = ("gate", "yard", "dock", "lane", "roof", "hall", "shop", "pier")
QUESTION_KINDS_OF_A_CAMERA: Final[tuple[tuple[QuestionKind, ...], ...]] = (
    ("existence", "color", "count"),
    ("existence", "position", "count"),
    ("existence", "color", "position"),
    ("color", "count", "position"),
)
ANSWER_TYPES: Final[dict[QuestionKind, AnswerType]] = {
    "existence": AnswerType.YES_NO,
    "color": AnswerType.WORD,
    "count": AnswerType.COUNT,
    "position": AnswerType.WORD,
}
DEADLINE_MS: Final = 10_000
_DEFAULT_QUESTIONS: Final = ("Is there a person?", "Is there a car?", "How many cars are there?")


@dataclass(frozen=True, slots=True)
class DemoCamera:
    """A camera of the demo.

    Attributes:
        name: its name.
        video: the file it reads.
        questions: its standing questions by id.
        truth: what is true in each frame; None for an own video.
    """

    name: str
    video: Path
    questions: dict[str, QuestionSettings]
    truth: ClipTruth | None

    def truth_at(self, index: int, question_id: str) -> str | None:
        """The true answer at a frame, None where it is unknown or not clear."""
        if self.truth is None or question_id not in {question.id for question in self.truth.questions}:
            return None
        return self.truth.truth(index % self.truth.frame_count, question_id)


def prepare_cameras(options: DemoOptions, progress: Callable[[str], None]) -> list[DemoCamera]:
    """The cameras of a run; rendered clips are written once and found again. Each video is opened and looked at.

    Args:
        options: what was asked for.
        progress: told what takes long.

    Raises:
        ConfigError: a video is not there, or cannot be played.
        SourceError: a clip cannot be written.
    """
    if options.videos:
        own = [_own_video(number, path, options.questions) for number, path in enumerate(options.videos)]
        ids = [question_id for camera in own for question_id in camera.questions]
        repeated = sorted({question_id for question_id in ids if ids.count(question_id) > 1})
        if repeated:
            raise ConfigError("--video", f"several clips bring a question {', '.join(repeated)}; play them one by one")
        return own
    if options.questions:
        raise ConfigError("--question", "the rendered cameras have questions of their own; name a --video to ask it")
    return [_rendered(number, options, progress) for number in range(options.cameras)]


def question_texts(cameras: Iterable[DemoCamera]) -> dict[str, str]:
    """Texts of all cameras' questions by id."""
    return {question_id: question.text for camera in cameras for question_id, question in camera.questions.items()}


def edge_settings(cameras: list[DemoCamera], options: DemoOptions, run_dir: Path, codec: Path) -> EdgeSettings:
    """Settings of the demo's one site.

    Args:
        cameras: its cameras.
        options: what was asked for.
        run_dir: for its state and its log of frames.
        codec: codec folder.

    Raises:
        ConfigError: more videos or questions than one site may have.
    """
    return made_of(
        EdgeSettings,
        {"cameras": "--video", "uplink_kbps": "--uplink-kbps"},
        site=SITE,
        uplink_kbps=options.uplink_kbps,
        first_prefix=options.first_prefix,
        codec=codec.absolute(),
        change_gate=EVERY_FRAME,
        cameras={
            camera.name: made_of(
                CameraSettings,
                {"source": "--video", "interval_s": "--interval", "questions": "--question"},
                source=str(camera.video.absolute()),
                interval_s=options.interval_s,
                questions=tuple(camera.questions),
            )
            for camera in cameras
        },
        questions={name: question for camera in cameras for name, question in camera.questions.items()},
        state_dir=run_dir / "edge-state",
        frame_log=run_dir / "frames.jsonl",
    )


def guess_answer_type(question: str) -> AnswerType:
    """What kind of answer an English question asks for; text where it is not clear."""
    words = question.lower().split()
    if not words:
        return AnswerType.TEXT
    if words[:2] == ["how", "many"]:
        return AnswerType.COUNT
    if words[0] in {"is", "are", "do", "does", "can", "has", "have"}:
        return AnswerType.YES_NO
    if words[0] == "where" or words[1:2] in (["color"], ["colour"]):
        return AnswerType.WORD
    return AnswerType.TEXT


def _rendered(number: int, options: DemoOptions, progress: Callable[[str], None]) -> DemoCamera:
    name = CAMERA_NAMES[number % len(CAMERA_NAMES)]
    if number >= len(CAMERA_NAMES):
        name = f"{name}{number // len(CAMERA_NAMES) + 1}"
    seed = options.seed * 1000 + number
    kinds = QUESTION_KINDS_OF_A_CAMERA[number % len(QUESTION_KINDS_OF_A_CAMERA)]
    # Ids travel with each frame: a letter or two of the camera and a digit.
    specs = {f"{_short(name)}{n + 1}": spec for n, spec in enumerate(standing_questions(seed, kinds))}
    video = options.work_dir / "clips" / f"{name}-{seed}.mp4"
    truth = _existing_clip(video, seed, specs)
    if truth is None:
        progress(f"rendering {CLIP_DURATION_S:.0f} s of camera {name} (once)")
        video.parent.mkdir(parents=True, exist_ok=True)
        write_clip(video, seed=seed, duration_s=CLIP_DURATION_S, fps=CLIP_FPS, questions=specs, camera=name)
        truth = read_sidecar(video)
    questions = {
        question_id: QuestionSettings(text=spec.text, answer_type=ANSWER_TYPES[spec.kind], deadline_ms=DEADLINE_MS)
        for question_id, spec in specs.items()
    }
    return DemoCamera(name, video, questions, truth)


def _existing_clip(video: Path, seed: int, specs: dict[str, QuestionSpec]) -> ClipTruth | None:
    """The truth of a clip of an earlier run, if it is the clip that would be written now."""
    if not video.is_file() or not sidecar_path(video).is_file():
        return None
    try:
        truth = read_sidecar(video)
        check_video(video)
    except (ArtifactError, SourceError):
        return None
    wanted = (seed, CLIP_FPS, CLIP_DURATION_S, specs)
    found = (truth.seed, truth.fps, truth.duration_s, {question.id: question.spec for question in truth.questions})
    return truth if found == wanted else None


def _own_video(number: int, path: Path, texts: tuple[str, ...]) -> DemoCamera:
    if not path.is_file():
        raise ConfigError("--video", f"no such file: {path}")
    try:
        check_video(path)
    except SourceError as error:
        raise ConfigError("--video", str(error)) from None
    name = re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")[:24] or "video"
    name = f"{name}-{number + 1}"
    if texts or not sidecar_path(path).is_file():
        questions = {
            f"v{number + 1}q{n + 1}": made_of(
                QuestionSettings,
                {"text": "--question"},
                text=text,
                answer_type=guess_answer_type(text),
                deadline_ms=DEADLINE_MS,
            )
            for n, text in enumerate(texts or _DEFAULT_QUESTIONS)
        }
        return DemoCamera(name, path, questions, None)
    truth = read_sidecar(path)
    questions = {
        question.id: made_of(
            QuestionSettings,
            {"text": str(sidecar_path(path))},
            text=question.text,
            answer_type=ANSWER_TYPES[question.kind],
            deadline_ms=DEADLINE_MS,
        )
        for question in truth.questions
    }
    return DemoCamera(name, path, questions, truth)


def _short(name: str) -> str:
    """First letter and number of a camera; unique among :data:`CAMERA_NAMES`."""
    return name[0] + "".join(character for character in name if character.isdigit())
