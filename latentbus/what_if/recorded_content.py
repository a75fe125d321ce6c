"""Frames and answers of a log, for the simulator: latents that weigh what they weighed, a model that says what it said.

Where the log lacks what a simulation asks for, nothing is made up in silence: it is counted, and a :class:`Bound` says
in which direction the gap is filled. One run of each shows between which figures the truth lies.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from analysis.latents import RecordedLatent, recorded_latent
from analysis.traces import FrameTrace
from analysis.workload import RecordedFrame, RecordedPass, RecordedQuery
from pipeline.codec.bitstream import decode_chunk
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.effects import InferencePass, PassAnswer, PassQuery
from schemas.errors import BitstreamError, RecordingGapError
from schemas.limits import MAX_LATENT_PAYLOAD_BYTES
from schemas.types import AnswerType

ZEROS = bytes(MAX_LATENT_PAYLOAD_BYTES)
"""Simulated payloads have a size and no content; each is a slice of this one."""

_ANY_ANSWER = {AnswerType.YES_NO: "no", AnswerType.COUNT: "0"}


class Bound(StrEnum):
    """How to fill in what a log does not say."""

    OPTIMISTIC = "optimistic"
    """Unknown answers are as good as the next longer prefix that was read, or safe; unknown latents are small."""
    PESSIMISTIC = "pessimistic"
    """Unknown answers are as bad as the next shorter prefix that was read, or not safe; unknown latents are
    large."""


@dataclass(slots=True)
class Gaps:
    """What a simulation asked of a log that the log does not hold.

    Attributes:
        passes: passes over prefixes of which the log has no answer, by prefix.
        ranges: ranges of latents whose size the log does not hold.
        queries: queries that met such a pass.
    """

    passes: Counter[int] = field(default_factory=Counter)
    ranges: Counter[tuple[int, int]] = field(default_factory=Counter)
    queries: set[str] = field(default_factory=set)


class LatentSizes:
    """Sizes of coded ranges, from everything that a log holds of all its frames.

    A range that was recorded has the size it had, also where it was coded given an earlier key frame. What was not
    recorded is taken as coded by itself: given a key frame it would have been smaller. A frame that was published as a
    key frame has two sizes of a range: by itself, and given itself, as its own first open message was coded.

    Args:
        frames: the frames.
        latent_count: latents of a whole frame, K.
        tables: tables of the codec; with them a range that starts or ends inside a recorded one is exact as well.
    """

    def __init__(self, frames: Sequence[RecordedFrame], latent_count: int, tables: FrequencyTables | None) -> None:
        self.latent_count = latent_count
        self._tables = tables
        pieces = [_pieces(frame.trace, latent_count) for frame in frames]
        self._pieces = [alone for alone, _ in pieces]
        self._given_itself = [given for _, given in pieces]
        self._prefixes = [_prefixes(pieces) for pieces in self._pieces]
        self._extremes: dict[tuple[int, int], tuple[int, int]] = {}

    def latent(self, index: int, trace: FrameTrace, bound: Bound, gaps: Gaps) -> SizedLatent:
        """The latent of a frame, by its index among the frames.

        Args:
            index: of the frame.
            trace: of the frame.
            bound: how to fill in sizes that the log does not hold.
            gaps: where those are counted.
        """
        return SizedLatent(self, index, trace, bound, gaps)

    def as_key(self, index: int, trace: FrameTrace, bound: Bound, gaps: Gaps) -> SizedLatent | None:
        """The latent of a key frame as it is coded given itself; None of a frame that was none."""
        return None if trace.as_key is None else SizedLatent(self, index, trace, bound, gaps, given_itself=True)

    def exact_given_itself(self, index: int, trace: FrameTrace, start: int, stop: int) -> int | None:
        """Bytes of a range of a key frame that is coded given itself, None where the log does not hold them."""
        recorded = self._given_itself[index].get((start, stop))
        if recorded is not None or self._tables is None or trace.as_key is None:
            return recorded
        try:
            symbols = decode_chunk(trace.as_key.message.payload, 0, self.latent_count, self._tables)
        except BitstreamError:
            return None  # other tables, or redacted
        latent = EncodedLatent(symbols, self._tables)
        return len(latent.given(latent.as_key()).payload(start, stop)) if latent.can_be_key else None

    def exact(self, index: int, trace: FrameTrace, start: int, stop: int) -> int | None:
        """Bytes of a range of a frame, None where the log does not hold them.

        A range that was recorded in parts is the sum of them, which is a byte or so more than the range as one chunk;
        one that was recorded as a part is the difference.
        """
        recorded = self._pieces[index].get((start, stop))
        if recorded is not None:
            return recorded
        coded = self._coded(trace)
        if coded is not None:
            try:
                return len(coded.payload(start, stop))
            except RecordingGapError:
                return None
        prefixes = self._prefixes[index]
        if stop not in prefixes or start not in prefixes:
            return None
        return max(1, prefixes[stop] - prefixes[start])

    def extreme(self, start: int, stop: int, bound: Bound) -> int:
        """Least or most bytes of a range over all frames; by the byte a latent where no frame has this range."""
        found = self._extremes.get((start, stop))
        if found is None:
            found = self._extremes[start, stop] = self._measure(start, stop)
        return found[0] if bound is Bound.OPTIMISTIC else found[1]

    def _measure(self, start: int, stop: int) -> tuple[int, int]:
        known = [
            size
            for pieces, prefixes in zip(self._pieces, self._prefixes, strict=True)
            if (size := pieces.get((start, stop), _difference(prefixes, start, stop))) is not None
        ]
        if known:
            return min(known), max(known)
        rates = [size / (to - since) for pieces in self._pieces for (since, to), size in pieces.items()]
        count = stop - start
        return max(1, int(min(rates, default=1) * count)), min(len(ZEROS), max(1, round(max(rates, default=1) * count)))

    def _coded(self, trace: FrameTrace) -> RecordedLatent | None:
        if self._tables is None:
            return None
        try:
            return recorded_latent(trace, self._tables)
        except BitstreamError:
            # Other tables, or a log whose latents were redacted: what was recorded still has its size.
            return None


@dataclass(frozen=True, slots=True)
class SizedLatent:
    """A :class:`~pipeline.protocol.effects.Latent` of a recorded frame: sizes without content."""

    _sizes: LatentSizes
    _index: int
    _trace: FrameTrace
    _bound: Bound
    _gaps: Gaps
    given_itself: bool = False
    """It is coded given itself, as a key frame."""

    @property
    def latent_count(self) -> int:
        """Latents of the whole frame."""
        return self._sizes.latent_count

    def payload(self, start: int, stop: int) -> bytes:
        """As many zeros as latents ``start..stop`` have bytes."""
        exact = self._sizes.exact_given_itself if self.given_itself else self._sizes.exact
        size_bytes = exact(self._index, self._trace, start, stop)
        if size_bytes is None:
            self._gaps.ranges[start, stop] += 1
            size_bytes = self._sizes.extreme(start, stop, self._bound)
        return ZEROS[:size_bytes]


class RecordedModel:
    """Answers passes from a log.

    Args:
        latent_count: latents of a whole frame, K.
        bound: what to say where the log has no answer.
        gaps: where that is counted.
    """

    def __init__(self, latent_count: int, bound: Bound, gaps: Gaps) -> None:
        self._latent_count = latent_count
        self._bound = bound
        self._gaps = gaps
        self._queries: dict[str, RecordedQuery] = {}

    def know(self, query_id: str, recorded: RecordedQuery) -> None:
        """A simulated query stands for a recorded one."""
        self._queries[query_id] = recorded

    def recorded(self, query_id: str) -> RecordedQuery:
        """The recorded query that a simulated one stands for."""
        return self._queries[query_id]

    def answer(self, inference_pass: InferencePass) -> list[PassAnswer]:
        """Answers to every query of a pass."""
        return [self._answer(query, inference_pass.stop) for query in inference_pass.queries]

    def _answer(self, query: PassQuery, prefix: int) -> PassAnswer:
        query_id = query.query_id
        passes = self._queries[query_id].passes
        above = bisect_right(passes, prefix, key=lambda inference_pass: inference_pass.prefix)
        if above and passes[above - 1].prefix == prefix:
            return _said(query_id, passes[above - 1])
        self._gaps.passes[prefix] += 1
        self._gaps.queries.add(query_id)
        if prefix >= self._latent_count:
            # The whole latent is safe whatever its answer is: only the text is unknown.
            return PassAnswer(query_id, _any_answer(query), 1.0)
        if self._bound is Bound.OPTIMISTIC:
            return (
                _said(query_id, passes[above]) if above < len(passes) else PassAnswer(query_id, _any_answer(query), 1.0)
            )
        return _said(query_id, passes[above - 1]) if above else PassAnswer(query_id, "", 0.0)


def _any_answer(query: PassQuery) -> str:
    """What stands for an answer that the log does not hold: it has the form of its type, or it would not be safe."""
    return query.question.options[0] if query.question.options else _ANY_ANSWER.get(query.answer_type, "unknown")


def _said(query_id: str, inference_pass: RecordedPass) -> PassAnswer:
    return PassAnswer(query_id, inference_pass.text, inference_pass.score)


_Pieces = dict[tuple[int, int], int]
"""Bytes by range."""


def _pieces(trace: FrameTrace, latent_count: int) -> tuple[_Pieces, _Pieces]:
    """Bytes of each range of a frame that the log holds as one chunk, the first time that it was sent.

    Returns:
        The ranges of the frame; and apart from them those that were coded given itself, of a key frame.
    """
    pieces: _Pieces = {}
    given_itself: _Pieces = {}
    if trace.as_key is not None:
        pieces[0, latent_count] = len(trace.as_key.message.payload)
    parts = [(0, opened.stop, opened.payload, opened.key) for _, opened in trace.opens]
    parts += [(chunk.start, chunk.stop, chunk.payload, chunk.key) for _, _, chunk in trace.chunks]
    for start, stop, payload, key in parts:
        (given_itself if key == trace.frame.sequence else pieces).setdefault((start, stop), len(payload))
    if trace.stored_latent is not None:
        pieces.setdefault((0, trace.stored_latent.stop), len(trace.stored_latent.payload))
    return pieces, given_itself


def _prefixes(pieces: Mapping[tuple[int, int], int]) -> dict[int, int]:
    """Bytes of each prefix that the ranges of a frame make up."""
    prefixes = {0: 0}
    for (start, stop), size in sorted(pieces.items()):
        if start in prefixes:
            prefixes.setdefault(stop, prefixes[start] + size)
    return prefixes


def _difference(prefixes: Mapping[int, int], start: int, stop: int) -> int | None:
    if start not in prefixes or stop not in prefixes:
        return None
    return max(1, prefixes[stop] - prefixes[start])
