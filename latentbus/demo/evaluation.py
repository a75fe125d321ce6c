"""From the ledger of a run to its summary: truth, comparison, rows."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils.logging import disable_progress_bar

from edge_nodes.sources.video_reader import VideoReader
from latentbus.demo.cameras import SITE, DemoCamera
from latentbus.demo.comparison import ComparedFrame, ComparedQuery, Comparison, Way, share
from latentbus.demo.ledger import DemoLedger, FrameRow
from latentbus.demo.scoring import same_answer
from latentbus.demo.summary import Row, Rows
from latentbus.fleet.ledger import Entry
from pipeline.codec.bundled import ModelPair
from pipeline.node.runtime import Stop
from schemas.errors import LocalError
from schemas.types import FrameId, Outcome

MAX_COMPARED_FRAMES: Final = 1200
"""Four rendered clips have as many distinct frames; of a longer run so many are compared, evenly spread."""


class ComparisonStoppedError(LocalError):
    """The user does not want to wait for the comparison."""


def accuracy_of_run(cameras: list[DemoCamera], ledger: DemoLedger) -> tuple[float | None, int]:
    """Share of true answers among all answers of a run whose truth is known, and their number."""
    by_name = {camera.name: camera for camera in cameras}
    hits = []
    for row, frame in _answered(ledger):
        truth = by_name[row.camera].truth_at(frame.index, row.question_id)
        if truth is not None:
            hits.append(same_answer(row.text, truth))
    return share(hits), len(hits)


async def compare(
    cameras: list[DemoCamera], ledger: DemoLedger, models: ModelPair, stop: Stop, progress: Callable[[str], None]
) -> Rows | None:
    """Ask the questions of a run the other ways.

    Args:
        cameras: its cameras.
        ledger: of the run.
        models: that it ran with.
        stop: a request that comes while this runs ends it.
        progress: told what is being computed.

    Returns:
        The rows; None when nothing was answered or the user did not wait.
    """
    given_up = threading.Event()

    def check_stop() -> None:
        if given_up.is_set():
            raise ComparisonStoppedError

    work = asyncio.create_task(
        asyncio.to_thread(_compare, cameras, ledger, models, check_stop, progress), name="comparison"
    )
    waited: set[asyncio.Task[object]] = {work}
    interrupted = None
    if not stop.requested:
        interrupted = asyncio.create_task(stop.wait(), name="interrupted")
        waited.add(interrupted)
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Also when this task is cancelled: a thread cannot be, and must not outlive the loop.
        given_up.set()
        if interrupted is not None:
            interrupted.cancel()
    try:
        return await work
    except ComparisonStoppedError:
        return None


def _compare(
    cameras: list[DemoCamera],
    ledger: DemoLedger,
    models: ModelPair,
    check_stop: Callable[[], None],
    progress: Callable[[str], None],
) -> Rows | None:
    # Several threads that spin for each other are slower than one wherever the machine has something else to do.
    torch.set_num_threads(1)
    disable_progress_bar()
    progress("decoding the frames of the run again")
    measured, frames = _compared_frames(cameras, ledger, check_stop)
    if not frames:
        return None
    progress(f"answering about {len(frames)} frames from uncompressed tokens")
    comparison = Comparison(frames, codec_dir=models.codec, vlm=models.vlm, site=SITE, check_stop=check_stop)
    spec = comparison.spec
    progress("answering from the whole latent, and from the base prefix alone")
    ways = [
        comparison.prefix("whole latent at once", spec.latent_count),
        comparison.prefix("base prefix only", spec.base_latents),
    ]
    note = "no image files: they need frames with known truth"
    if comparison.accuracy_of_run() is not None:
        progress("looking for the cheapest image file of equal accuracy")
        image = comparison.cheapest_image()
        note = (
            "" if image else "no image file that was tried in the time reaches the accuracy of the progressive answers"
        )
        ways += [image] if image else []
    progressive = _progressive(comparison, measured)
    queries_per_frame = len(comparison.queries()) / len(frames)
    return Rows(
        rows=(progressive, *(_row(way, queries_per_frame) for way in ways)),
        accuracy_uncompressed=comparison.accuracy_uncompressed(),
        compared_frames=len(frames),
        image_note=note,
    )


def _progressive(comparison: Comparison, measured: list[FrameRow]) -> Row:
    wire_bytes = float(np.mean([frame.wire_bytes for frame in measured]))
    queries_per_frame = len(comparison.queries()) / len(comparison.frames)
    return Row(
        name="progressive (measured)",
        accuracy=comparison.accuracy_of_run(),
        agreement=comparison.agreement_of_run(),
        payload_bytes_per_frame=float(np.mean([frame.payload_bytes for frame in measured])),
        wire_bytes_per_frame=wire_bytes,
        wire_bytes_per_question=wire_bytes / queries_per_frame,
    )


def _row(way: Way, queries_per_frame: float) -> Row:
    return Row(
        way.name, way.accuracy, way.agreement, way.payload_bytes, way.wire_bytes, way.wire_bytes / queries_per_frame
    )


def _answered(ledger: DemoLedger) -> Iterator[tuple[Entry, FrameRow]]:
    for row in ledger.opened:
        if row.outcome in (Outcome.ANSWERED, Outcome.DEGRADED):
            yield row, ledger.frame_of(row)


def _compared_frames(
    cameras: list[DemoCamera], ledger: DemoLedger, check_stop: Callable[[], None]
) -> tuple[list[FrameRow], list[ComparedFrame]]:
    """Distinct frames of the videos with what was answered about them, and the rows of the ledger behind them."""
    answers: dict[tuple[str, int], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    behind: dict[tuple[str, int], dict[FrameId | None, FrameRow]] = defaultdict(dict)
    standing = {camera.name: camera.questions for camera in cameras}
    for row, frame in _answered(ledger):
        if row.question_id in standing[row.camera]:
            answers[row.camera, frame.index][row.question_id].append(row.text)
            behind[row.camera, frame.index][row.frame] = frame
    keys = sorted(answers)
    if len(keys) > MAX_COMPARED_FRAMES:
        keys = [keys[index] for index in np.linspace(0, len(keys) - 1, MAX_COMPARED_FRAMES).astype(int)]
    frames = []
    for camera in cameras:
        wanted = [index for name, index in keys if name == camera.name]
        pixels = _frames_at(camera, set(wanted), check_stop)
        frames += [
            ComparedFrame(camera.name, pixels[index], _queries(camera, index, answers[camera.name, index]))
            for index in wanted
        ]
    chosen = {(camera.name, index) for camera in cameras for name, index in keys if name == camera.name}
    return [frame for key in sorted(chosen) for frame in behind[key].values()], frames


def _queries(camera: DemoCamera, index: int, answers: dict[str, list[str]]) -> tuple[ComparedQuery, ...]:
    return tuple(
        ComparedQuery(
            question_id=question_id,
            text=question.text,
            answer_type=question.answer_type,
            truth=camera.truth_at(index, question_id),
            answers=tuple(answers[question_id]),
            remaining_ms=question.deadline_ms,
        )
        for question_id, question in camera.questions.items()
        if question_id in answers
    )


def _frames_at(camera: DemoCamera, indices: set[int], check_stop: Callable[[], None]) -> dict[int, NDArray[np.uint8]]:
    """Frames of a video by number, decoded from its beginning as its source decodes them."""
    found: dict[int, NDArray[np.uint8]] = {}
    if not indices:
        return found
    reader = VideoReader(camera.video)
    try:
        for frame in reader.frames():
            check_stop()
            if frame.index in indices:
                found[frame.index] = frame.pixels()
                if len(found) == len(indices):
                    break
    finally:
        reader.close()
    return found
