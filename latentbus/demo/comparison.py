"""The other ways of asking the same questions about the same frames, with the same codec and the same VLM.

Runs after the demo. Bytes are those of the messages that each way would have put on the uplink, made with the real
codec and the real wire format; answers are the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_workers.inference.registry import load_model
from edge_nodes.encoder import OnnxEncoder
from latentbus.demo.image_search import ImageSearch, Score
from latentbus.demo.scoring import same_answer
from pipeline.codec.frame_fit import fit_frame
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.protocol.uplink import CHARGE_TLS
from schemas import wire
from schemas.identity import DIGEST_BYTES
from schemas.messages import Open, QueryRef
from schemas.types import AnswerType, FrameId
from schemas.wire_cost import known_topic_wire_bytes
from training.baselines.stills import through_image_files

BATCH_FRAMES = 16


@dataclass(frozen=True, slots=True)
class ComparedQuery:
    """A query of the run.

    Attributes:
        question_id: its question.
        text: what was asked.
        answer_type: what kind of answer.
        truth: the true answer, None where it is unknown.
        answers: what the run itself answered, each time this frame was asked.
        remaining_ms: time that its deadline leaves, as the open message says.
    """

    question_id: str
    text: str
    answer_type: AnswerType
    truth: str | None
    answers: tuple[str, ...]
    remaining_ms: int


@dataclass(frozen=True, slots=True)
class ComparedFrame:
    """A frame of the run.

    Attributes:
        camera: its camera.
        pixels: RGB, uint8 [H, W, 3], as its source decodes it.
        queries: what was asked of it.
    """

    camera: str
    pixels: NDArray[np.uint8]
    queries: tuple[ComparedQuery, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """One way of asking, over all frames.

    Attributes:
        name: what it is.
        accuracy: share of true answers among queries whose truth is known; None without any.
        agreement: share of answers that equal those from uncompressed tokens.
        payload_bytes: latents or image file, a frame.
        wire_bytes: everything on the uplink, a frame.
        answers: its answers, in the order of frames and their queries.
    """

    name: str
    accuracy: float | None
    agreement: float | None
    payload_bytes: float
    wire_bytes: float
    answers: tuple[str, ...]


class Comparison:
    """Model and codec, loaded once, and the frames of a run.

    Args:
        frames: what was asked.
        codec_dir: codec folder.
        vlm: folder or hub id.
        site: site of the run, a part of its open messages.
        check_stop: called between batches; raises to end the comparison.
    """

    def __init__(
        self,
        frames: Sequence[ComparedFrame],
        *,
        codec_dir: Path,
        vlm: str | Path,
        site: str,
        check_stop: Callable[[], None],
    ) -> None:
        self.frames = frames
        self._encoder = OnnxEncoder(codec_dir)
        self._decoder = load_prefix_decoder(codec_dir)
        self._vlm = load_model(
            vlm, tiles_per_edge=self._encoder.spec.tiles_per_edge, frame_size_px=self._encoder.spec.tile_px
        )
        self._site = site
        self._check_stop = check_stop
        self.spec = self._encoder.spec
        self.pixels = np.stack([fit_frame(frame.pixels, self.spec.image_size_px, self.spec.fit) for frame in frames])
        """uint8 [F, S, S, 3], as the encoder sees them."""
        self._latents: list[EncodedLatent] = []
        for batch in self._batches(len(frames)):
            self._latents += self._encoder.encode([self.pixels[index] for index in batch])
        self.uncompressed: tuple[str, ...] = tuple(self._answer_pixels(self.pixels, range(len(frames))))
        """Answers from tokens that were not compressed, in the order of frames and their queries."""

    def queries(self) -> list[ComparedQuery]:
        """All queries, in the order of frames."""
        return [query for frame in self.frames for query in frame.queries]

    def prefix(self, name: str, latents: int) -> Way:
        """Every answer from the same prefix length, sent in one open message.

        Args:
            name: what the row is called.
            latents: prefix length.
        """
        answers: list[str] = []
        for batch in self._batches(len(self.frames)):
            symbols = np.stack([self._latents[index].symbols for index in batch])
            symbols[:, latents:] = 0
            tokens = self._decoder.decode(symbols, np.full(len(batch), latents))
            answers += self._answer(tokens, [self.frames[index] for index in batch])
        payloads = [latent.payload(0, latents) for latent in self._latents]
        wire_bytes = [
            self._open_wire_bytes(frame, payload, latents) for frame, payload in zip(self.frames, payloads, strict=True)
        ]
        return self._way(name, answers, [len(payload) for payload in payloads], wire_bytes)

    def cheapest_image(self) -> Way | None:
        """Every answer from the cheapest image file from which the model answers as well as the run did.

        Returns:
            None if no setting that was tried in the time does.
        """
        search = ImageSearch(self.pixels, self._score_of_run, self._score_of_pixels, self._check_stop)
        setting = search.cheapest()
        if setting is None:
            return None
        pixels, sizes_bytes = through_image_files(self.pixels, setting)
        sizes: list[int] = sizes_bytes.tolist()
        # What an open message costs beyond its payload stays the same.
        wire_bytes = [
            self._open_wire_bytes(frame, b"\0", 1) - 1 + size for frame, size in zip(self.frames, sizes, strict=True)
        ]
        answers = self._answer_pixels(pixels, range(len(self.frames)))
        return self._way(f"image file ({setting})", answers, sizes, wire_bytes)

    def accuracy_of_run(self) -> float | None:
        """Share of true answers of the run itself, among queries whose truth is known."""
        score = self._score_of_run(range(len(self.frames)))
        return score.accuracy if score.scored else None

    def accuracy_uncompressed(self) -> float | None:
        """The same of the uncompressed tokens, each query weighted as often as the run asked it."""
        return share(
            same_answer(answer, query.truth)
            for query, answer in zip(self.queries(), self.uncompressed, strict=True)
            if query.truth is not None
            for _ in query.answers
        )

    def agreement_of_run(self) -> float | None:
        """Share of the run's answers that equal those from uncompressed tokens."""
        return share(
            same_answer(answer, reference)
            for query, reference in zip(self.queries(), self.uncompressed, strict=True)
            for answer in query.answers
        )

    def _way(self, name: str, answers: Sequence[str], payload_bytes: Sequence[int], wire_bytes: Sequence[int]) -> Way:
        agreement = share(same_answer(*pair) for pair in zip(answers, self.uncompressed, strict=True))
        score = self._score(answers, range(len(self.frames)))
        return Way(
            name,
            score.accuracy if score.scored else None,
            agreement,
            float(np.mean(payload_bytes)),
            float(np.mean(wire_bytes)),
            tuple(answers),
        )

    def _score_of_run(self, frames: Sequence[int]) -> Score:
        hits = [
            same_answer(answer, query.truth)
            for index in frames
            for query in self.frames[index].queries
            if query.truth is not None
            for answer in query.answers
        ]
        return Score(sum(hits), len(hits))

    def _score_of_pixels(self, pixels: NDArray[np.uint8], frames: Sequence[int]) -> Score:
        return self._score(self._answer_pixels(pixels, frames), frames)

    def _score(self, answers: Sequence[str], frames: Sequence[int]) -> Score:
        queries = [query for index in frames for query in self.frames[index].queries]
        hits = [
            same_answer(answer, query.truth)
            for query, answer in zip(queries, answers, strict=True)
            if query.truth is not None
        ]
        return Score(sum(hits), len(hits))

    def _answer_pixels(self, pixels: NDArray[np.uint8], frames: Sequence[int]) -> list[str]:
        answers: list[str] = []
        for batch in self._batches(len(frames)):
            tokens = self._vlm.encode_pixels(pixels[batch.start : batch.stop])
            answers += self._answer(tokens, [self.frames[frames[row]] for row in batch])
        return answers

    def _answer(self, tokens: torch.Tensor, frames: Sequence[ComparedFrame]) -> list[str]:
        rows = [row for row, frame in enumerate(frames) for _ in frame.queries]
        questions = [(query.text, query.answer_type) for frame in frames for query in frame.queries]
        return [answer.text for answer in self._vlm.answer(tokens, questions, frames=rows)]

    def _batches(self, count: int) -> Iterable[range]:
        for first in range(0, count, BATCH_FRAMES):
            self._check_stop()
            yield range(first, min(first + BATCH_FRAMES, count))

    def _open_wire_bytes(self, frame: ComparedFrame, payload: bytes, stop: int) -> int:
        """As the fleet's own frames are charged: what they are compared with must not pay for names that they save."""
        message = Open(
            # Ids as large as in a run: five bytes of boot id, two of sequence.
            frame=FrameId(2**31, 200),
            attempt=1,
            site=self._site,
            fingerprint=self.spec.fingerprint4,
            queries=tuple(
                # Of the digest only the length counts here.
                QueryRef(query.question_id, query.remaining_ms, bytes(DIGEST_BYTES))
                for query in frame.queries
            ),
            stop=stop,
            payload=payload,
        )
        return known_topic_wire_bytes(len(wire.encode(message)), 1, tls=CHARGE_TLS)


def share(hits: Iterable[bool]) -> float | None:
    """Share of hits, None of nothing."""
    values = list(hits)
    return sum(values) / len(values) if values else None
