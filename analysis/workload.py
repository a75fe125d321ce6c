"""A log as work that can be done again: which frames asked what and when, what their latents weigh, what was answered.

Times are seconds since the log began, as whoever recorded it saw them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from analysis.model_times import ModelTimes, measure_model_times
from analysis.traces import AskTrace, FrameTrace, QueryTrace
from analysis.traffic import Traffic
from schemas import topics, wire
from schemas.identity import QuestionContent
from schemas.messages import Question, Refine
from schemas.types import AnswerType, Outcome
from schemas.wire_cost import publish_wire_bytes

PLACEHOLDER = "?"
"""Text of a question that the log never says; the simulated model does not read it."""
_FASTEST = 50
"""One frame in so many is taken for one that found the uplink free."""
_NS = 1e9
_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class RecordedPass:
    """What the model said to one query when it had read a prefix.

    Attributes:
        prefix: latents that were read.
        text: the answer.
        score: what the stop rule compared with its threshold.
    """

    prefix: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class RecordedQuery:
    """A query of a frame, and what became of it.

    Attributes:
        query_id: its key in the log.
        question: the question, with its owner; :data:`PLACEHOLDER` where the log never says its text.
        deadline_s: when it had to be decided.
        passes: answers by prefix, ascending, each prefix once.
        outcome: how it ended, None where the log does not say.
        answer_text: the answer that counted.
        decided_s: when, None where the log does not say.
    """

    query_id: str
    question: QuestionContent
    deadline_s: float
    passes: tuple[RecordedPass, ...]
    outcome: Outcome | None
    answer_text: str
    decided_s: float | None

    @property
    def ad_hoc(self) -> bool:
        """Asked once by a client."""
        return self.question.ad_hoc


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """A frame with its queries.

    Attributes:
        trace: all that the log has of it.
        captured_s: when it was taken: its deadlines count from here.
        offered_s: when it was encoded and its questions were asked.
        base_latents: prefix that its first open carried.
        queries: at least one.
    """

    trace: FrameTrace
    captured_s: float
    offered_s: float
    base_latents: int
    queries: tuple[RecordedQuery, ...]

    @property
    def camera(self) -> str:
        """Camera of the frame."""
        return self.trace.camera


@dataclass(frozen=True, slots=True)
class Workload:
    """What a log gives a simulation to do.

    Attributes:
        sites: cameras by site; a camera of no known site stands alone under its own name.
        frames: in the order of their times.
        questions: standing questions by owner and id.
        asks: ad-hoc questions with the times when clients asked them.
        workers: workers that answered.
        model: what the model's time was.
        lacks: what the log cannot give, by reason.
        duration_s: from the first message to the last.
    """

    sites: Mapping[str, tuple[str, ...]]
    frames: tuple[RecordedFrame, ...]
    questions: Mapping[tuple[str, str], Question]
    asks: tuple[tuple[float, AskTrace], ...]
    workers: tuple[str, ...]
    model: ModelTimes
    lacks: Counter[str]
    duration_s: float


def read_workload(traffic: Traffic) -> Workload:
    """Turn a log that is understood into work.

    Frames whose latents never left their edge are not in it, unless they were stored: they are counted in
    :attr:`Workload.lacks`, as is everything else that had to be left out or assumed.
    """
    start_ns = traffic.start_ns or 0
    lacks: Counter[str] = Counter()
    frames = []
    waits_ms = sorted(wait for trace in traffic.frames.values() if (wait := _wait_ms(trace, traffic)) is not None)
    encode_ms = waits_ms[len(waits_ms) // _FASTEST] if waits_ms else 0
    for trace in traffic.frames.values():
        frame = _frame(trace, traffic, start_ns, encode_ms, lacks)
        if frame is not None:
            frames.append(frame)
    frames.sort(key=lambda frame: frame.offered_s)
    workers = {answer.worker for query in traffic.queries.values() for _, answer in query.answers}
    stop_ns = traffic.stop_ns or start_ns
    return Workload(
        sites=_sites(traffic, frames, lacks),
        frames=tuple(frames),
        questions=_questions(traffic, frames),
        asks=tuple(((asked.asked_ns - start_ns) / _NS, asked) for asked in traffic.asks.values()),
        workers=tuple(sorted(workers)),
        model=measure_model_times(traffic),
        lacks=lacks,
        duration_s=(stop_ns - start_ns) / _NS,
    )


def _wait_ms(trace: FrameTrace, traffic: Traffic) -> int | None:
    """From the capture of a frame to its first open leaving: encoder and uplink, on the clock of the edge alone."""
    waited = [
        query.deadline_ms - query.remaining_ms
        for query in (traffic.queries[query_id] for query_id in trace.query_ids)
        if not query.ad_hoc and query.deadline_ms is not None and query.remaining_ms is not None
    ]
    return max(0, min(waited)) if waited else None


def _frame(
    trace: FrameTrace, traffic: Traffic, start_ns: int, encode_ms: int, lacks: Counter[str]
) -> RecordedFrame | None:
    queries = [traffic.queries[query_id] for query_id in trace.query_ids]
    if not queries:
        lacks["frames without a query"] += 1
        return None
    if trace.opens:
        opened_ns, first = trace.opens[0]
        base_latents, wait_ms = first.stop, _wait_ms(trace, traffic)
        if wait_ms is not None:
            captured_ns = opened_ns - wait_ms * _NS_PER_MS
            # The fastest frames of all waited for the encoder only; what others waited longer was the uplink.
            offered_ns = captured_ns + min(wait_ms, encode_ms) * _NS_PER_MS
        else:
            lacks["frames whose wait for the uplink is unknown, taken as none"] += 1
            captured_ns = offered_ns = opened_ns
    elif trace.stored_latent is not None and trace.stored_ns is not None:
        captured_ns = offered_ns = trace.stored_ns
        base_latents = trace.stored_latent.base
    else:
        lacks["frames whose latents never left the edge"] += 1
        lacks["queries of such frames"] += len(queries)
        return None
    recorded = []
    for query in queries:
        deadline_ns = _deadline_ns(query, trace, captured_ns)
        if deadline_ns is None:
            lacks["queries without a known deadline"] += 1
            continue
        if query.answer_type is None:
            lacks["queries without a known answer type, taken as text"] += 1
        recorded.append(_query(query, start_ns, deadline_ns))
    if not recorded:
        return None
    return RecordedFrame(
        trace, (captured_ns - start_ns) / _NS, (offered_ns - start_ns) / _NS, base_latents, tuple(recorded)
    )


def _deadline_ns(query: QueryTrace, trace: FrameTrace, captured_ns: int) -> int | None:
    if query.remaining_ms is not None and trace.opens:
        return trace.opens[0][0] + query.remaining_ms * _NS_PER_MS
    return None if query.deadline_ms is None else captured_ns + query.deadline_ms * _NS_PER_MS


def _query(query: QueryTrace, start_ns: int, deadline_ns: int) -> RecordedQuery:
    passes: dict[int, RecordedPass] = {}
    for _, answer in query.answers:
        if answer.outcome is not Outcome.FAILED and answer.latents:
            passes.setdefault(answer.latents, RecordedPass(answer.latents, answer.text, answer.score))
    return RecordedQuery(
        query_id=query.query_id,
        question=QuestionContent(
            query.owner,
            query.question_id,
            query.text or PLACEHOLDER,
            query.answer_type or AnswerType.TEXT,
            query.options,
            query.risk,
        ),
        deadline_s=(deadline_ns - start_ns) / _NS,
        passes=tuple(passes[prefix] for prefix in sorted(passes)),
        outcome=query.outcome,
        answer_text=query.answer_text,
        decided_s=None if query.decided_ns is None else (query.decided_ns - start_ns) / _NS,
    )


def _sites(traffic: Traffic, frames: list[RecordedFrame], lacks: Counter[str]) -> dict[str, tuple[str, ...]]:
    seen = dict.fromkeys(frame.camera for frame in frames)
    sites: dict[str, tuple[str, ...]] = {}
    for site, cameras in traffic.sites.items():
        here = tuple(camera for camera in cameras if camera in seen)
        if here:
            sites[site] = here
    known = {camera for cameras in sites.values() for camera in cameras}
    for camera in seen:
        if camera not in known:
            lacks["cameras of no known site, each taken as a site"] += 1
            sites[camera] = (camera,)
    return sites


def _questions(traffic: Traffic, frames: list[RecordedFrame]) -> dict[tuple[str, str], Question]:
    """Every standing question that is asked, also those whose text the log never says."""
    questions = dict(traffic.questions)
    for frame in frames:
        for asked in (query.question for query in frame.queries if not query.ad_hoc):
            key = traffic.question_key(asked.owner, asked.question_id)
            if key not in questions:
                questions[key] = Question(
                    site=asked.owner.removeprefix("site/"),
                    question_id=asked.question_id,
                    text=asked.text,
                    answer_type=asked.answer_type,
                    options=asked.options,
                )
    return questions


def round_trip_s(traffic: Traffic, cameras: Collection[str], uplink_kbps: float | None) -> float | None:
    """From a refine request to its chunk as the recorder saw them: the way to an edge and back.

    Args:
        traffic: the log.
        cameras: cameras of the edge.
        uplink_kbps: its uplink; None without a limit.

    Returns:
        The median over requests that met an idle uplink, None without such a request.
    """
    sent = sorted(_departures(traffic, cameras))
    waits = []
    for camera, frame_id in traffic.frames:
        if camera not in cameras:
            continue
        frame = traffic.frames[camera, frame_id]
        for asked_ns, control in frame.controls:
            if not isinstance(control, Refine):
                continue
            served_ns = min(
                (ns for ns, _, chunk in frame.chunks if chunk.start == control.start and ns >= asked_ns), default=None
            )
            if served_ns is not None and _idle(sent, asked_ns, served_ns, uplink_kbps):
                waits.append((served_ns - asked_ns) / _NS)
    return median(waits) if waits else None


def _departures(traffic: Traffic, cameras: Collection[str]) -> Iterator[tuple[int, int]]:
    """When cameras sent opens, chunks and key frames, and their bytes on the wire."""
    for (camera, _), frame in traffic.frames.items():
        if camera in cameras:
            for sent_ns, opened in frame.opens:
                topic = topics.open_topic(frame.pool, camera)
                yield sent_ns, publish_wire_bytes(topic, len(wire.encode(opened)), 1)
            for sent_ns, worker, chunk in frame.chunks:
                yield sent_ns, publish_wire_bytes(topics.chunk_topic(worker, camera), len(wire.encode(chunk)), 0)
            if frame.as_key is not None:
                yield frame.as_key.published_ns, frame.as_key.wire_bytes


def _idle(sent: list[tuple[int, int]], since_ns: int, until_ns: int, uplink_kbps: float | None) -> bool:
    """Whether nothing left between two times, and what left before them was through."""
    if uplink_kbps is None:
        return True
    after = bisect_left(sent, (since_ns, 0))
    if after < len(sent) and sent[after][0] < until_ns:
        return False
    # Messages of one edge follow one another at the rate, so the one before alone may still be on its way.
    return after == 0 or sent[after - 1][0] + sent[after - 1][1] * 8 / uplink_kbps * _NS_PER_MS <= since_ns
