"""From a log to the plan of its virtual cameras. Pure.

Nothing is invented: a frame whose latents, or a query whose text, the log does not hold is left out and counted in
:class:`~analysis.replay.plan.Shortfalls`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from analysis.latents import RecordedLatent, recorded_latent
from analysis.replay.plan import (
    REPLAY_CLIENT,
    NameMaps,
    PlanOptions,
    ReplayAsk,
    ReplayFrame,
    ReplayItem,
    ReplayPlan,
    ReplayQuery,
    ReplayQuestion,
    Shortfalls,
    SitePlan,
)
from analysis.traces import AskTrace, FrameTrace, QueryTrace
from analysis.traffic import Traffic
from pipeline.config.edge_settings import MAX_CAMERAS_PER_SITE
from pipeline.recording.message import LoggedMessage
from schemas import topics, wire
from schemas.errors import BitstreamError, ConfigError, FingerprintError, WireError
from schemas.identity import QuestionContent, ad_hoc_query_id, owner_of
from schemas.messages import QueryRef, Question
from schemas.topics import Family
from schemas.types import FrameId

_NAME_CHARS = 32
_UNKNOWN_SITE = "log"
_QUESTION_ROOT = topics.family_filter(Family.QUESTION).removesuffix("+/+")


class QuestionHistory:
    """Standing questions as a log sets and changes them; watches its messages on their way to another reader."""

    def __init__(self) -> None:
        self._changes: dict[tuple[str, str], list[tuple[int, Question]]] = {}

    def watch(self, messages: Iterable[LoggedMessage]) -> Iterator[LoggedMessage]:
        """The same messages, taken note of."""
        for logged in messages:
            if logged.topic.startswith(_QUESTION_ROOT):
                self._learn(logged)
            yield logged

    def at(self, owner: str, question_id: str, time_ns: int) -> Question | None:
        """The question as it was; the first one there is for a time before it."""
        changes = self._changes.get((owner, question_id), [])
        before = [question for changed_ns, question in changes if changed_ns <= time_ns]
        return before[-1] if before else changes[0][1] if changes else None

    def changes(self, owner: str, question_id: str) -> list[tuple[int, Question]]:
        """All of its texts, with the times from which they hold."""
        return list(self._changes.get((owner, question_id), []))

    def _learn(self, logged: LoggedMessage) -> None:
        try:
            _, message = wire.decode_publish(logged.topic, logged.payload)
        except WireError:
            return  # counted by the reader of the traffic
        if isinstance(message, Question):
            changes = self._changes.setdefault((owner_of("site", message.site), message.question_id), [])
            if not changes or changes[-1][1] != message:
                changes.append((logged.time_ns, message))


def make_plan(
    traffic: Traffic,
    history: QuestionHistory,
    options: PlanOptions,
    *,
    draw_boot: Callable[[], int],
    query_suffix: str,
) -> ReplayPlan:
    """Plan the virtual cameras of a log.

    Args:
        traffic: the log understood.
        history: its standing questions.
        options: what is wanted of it.
        draw_boot: a new random boot id at each call.
        query_suffix: appended to the ids of ad-hoc queries, a few characters of a name.

    Raises:
        FingerprintError: the log was recorded with another codec.
        BitstreamError: not one latent of the log decodes, as after ``--redact latents`` or without key frames.
        ConfigError: the frames of one site were opened to several pools and none was chosen.
    """
    return _Planner(traffic, history, options, draw_boot, query_suffix).plan()


class _Planner:
    def __init__(
        self,
        traffic: Traffic,
        history: QuestionHistory,
        options: PlanOptions,
        draw_boot: Callable[[], int],
        query_suffix: str,
    ) -> None:
        self._traffic = traffic
        self._history = history
        self._options = options
        self._draw_boot = draw_boot
        self._query_suffix = query_suffix
        self._maps = NameMaps(cameras=dict(options.cameras))
        self._shortfalls = Shortfalls()
        self._problem: BitstreamError | None = None
        self._site_of_boot = {
            status.boot: name
            for (kind, name), statuses in traffic.statuses.items()
            if kind == "edge"
            for _, status in statuses
        }
        self._new_ids: dict[str, str] = {}
        self._ids_in_use: set[tuple[str, str]] = set()
        self._recorded_owners: dict[tuple[str, str], str] = {}
        self._site_of_camera = {camera: site for site, cameras in traffic.sites.items() for camera in cameras}

    def plan(self) -> ReplayPlan:
        frames = [frame for trace in self._traffic.frames.values() if (frame := self._frame(trace)) is not None]
        if not frames and self._problem is not None:
            raise self._problem
        frames.sort(key=lambda frame: frame.time_ns)
        sites = self._sites(frames)
        items: list[ReplayItem] = [*self._questions(frames), *self._asks(frames), *frames]
        # Stable: at one time questions go before asks and asks before frames.
        items.sort(key=lambda item: item.time_ns)
        return ReplayPlan(tuple(items), sites, self._maps, self._shortfalls)

    # ---- frames -----------------------------------------------------------------------------------------------------

    def _frame(self, trace: FrameTrace) -> ReplayFrame | None:
        if not trace.opens:
            # Outcomes of a frame that never left its edge, or of one that was opened before the log began.
            self._shortfalls.frames_without_latents += bool(trace.query_ids) and self._was_decided_in_range(trace)
            return None
        opened_ns, opened = trace.opens[0]
        refs = [ref for ref in opened.queries if not self._asked_elsewhere(ref, trace)]
        if not refs:
            return None
        queries = [(self._query(ref, trace, opened_ns), ref) for ref in refs]
        waited_ms = max((_waited_ms(query, ref) for query, ref in queries), default=0)
        time_ns = opened_ns - waited_ms * 1_000_000
        if time_ns not in self._options.time_range:
            return None
        if not self._options.selected(topics.open_topic(trace.pool, trace.camera)):
            return None
        if opened.fingerprint != self._options.fingerprint:
            raise FingerprintError(opened.fingerprint, self._options.fingerprint)
        latent = self._latent(trace)
        base_latents = opened.stop if self._options.base_latents is None else self._options.base_latents
        if latent is None or latent.available < base_latents:
            self._shortfalls.frames_damaged += latent is None
            self._shortfalls.frames_too_short += latent is not None
            return None
        asked = tuple(
            replayed for query, ref in queries if (replayed := self._replayed(query, ref, trace, waited_ms)) is not None
        )
        if not asked:
            self._shortfalls.frames_without_text += 1
            return None
        self._shortfalls.latents_partly += not latent.whole
        return ReplayFrame(
            time_ns=time_ns,
            site=self._site(trace),
            camera=self._camera(trace.camera),
            frame=FrameId(self._boot(trace.frame.boot), trace.frame.sequence),
            latent=latent,
            base_latents=base_latents,
            queries=asked,
        )

    def _asked_elsewhere(self, ref: QueryRef, trace: FrameTrace) -> bool:
        """Whether an ad-hoc question was asked again of a later frame, by an edge that had been started again."""
        query = self._traffic.queries.get(ref.query_id(trace.camera, trace.frame)) if ref.ad_hoc else None
        return query is not None and (query.camera, query.frame) != (trace.camera, trace.frame)

    def _was_decided_in_range(self, trace: FrameTrace) -> bool:
        queries = (self._traffic.queries[query_id] for query_id in trace.query_ids)
        return any(query.decided_ns in self._options.time_range for query in queries)

    def _latent(self, trace: FrameTrace) -> RecordedLatent | None:
        try:
            return recorded_latent(trace, self._options.tables)
        except BitstreamError as error:
            self._problem = self._problem or error
            self._shortfalls.why_damaged = str(self._problem)
            return None

    def _query(self, ref: QueryRef, trace: FrameTrace, opened_ns: int) -> QueryTrace | Question | None:
        """What the log knows of a question, as it stood when the frame was opened."""
        opened = trace.opens[0][1]
        if not ref.ad_hoc:
            question = self._history.at(owner_of("site", opened.site), ref.question_id, opened_ns)
            if question is not None:
                return question
        return self._traffic.queries.get(ref.query_id(trace.camera, trace.frame))

    def _replayed(
        self, query: QueryTrace | Question | None, ref: QueryRef, trace: FrameTrace, waited_ms: int
    ) -> ReplayQuery | None:
        if query is None or query.text is None or query.answer_type is None:
            self._shortfalls.queries_without_text[ref.question_id] += 1
            return None
        if ref.client is not None:
            owner, question_id = owner_of("client", REPLAY_CLIENT), self._query_id(trace.camera, ref.client, ref)
        else:
            owner, question_id = owner_of("site", self._site(trace)), ref.question_id
            self._recorded_owners.setdefault((owner, question_id), owner_of("site", trace.opens[0][1].site))
        content = QuestionContent(owner, question_id, query.text, query.answer_type, query.options, query.risk)
        return ReplayQuery(content, (ref.remaining_ms + waited_ms) / 1000)

    # ---- names ------------------------------------------------------------------------------------------------------

    def _boot(self, recorded: int) -> int:
        if recorded not in self._maps.boots:
            self._maps.boots[recorded] = self._draw_boot()
        return self._maps.boots[recorded]

    def _query_id(self, camera: str, client: str, ref: QueryRef) -> str:
        """New id of an ad-hoc question, under which the replay's client asks it."""
        recorded = ad_hoc_query_id(camera, client, ref.question_id)
        if recorded not in self._new_ids:
            new = f"{ref.question_id}{self._query_suffix}"
            taken = (self._camera(camera), new) in self._ids_in_use
            if taken or len(new) > _NAME_CHARS:
                digest = hashlib.sha256(recorded.encode()).hexdigest()[:8]
                kept = _NAME_CHARS - len(digest) - len(self._query_suffix)
                new = f"{ref.question_id[:kept]}{digest}{self._query_suffix}"
            self._ids_in_use.add((self._camera(camera), new))
            self._new_ids[recorded] = new
            self._maps.query_ids[recorded] = ad_hoc_query_id(self._camera(camera), REPLAY_CLIENT, new)
        return self._new_ids[recorded]

    def _camera(self, recorded: str) -> str:
        return self._options.cameras.get(recorded, recorded)

    def _site(self, trace: FrameTrace) -> str:
        if self._options.site is not None:
            return self._options.site
        by_camera = self._site_of_camera.get(trace.camera, _UNKNOWN_SITE)
        return f"replay-{self._site_of_boot.get(trace.frame.boot, by_camera)}"[:_NAME_CHARS]

    # ---- sites, questions, asks -------------------------------------------------------------------------------------

    def _sites(self, frames: Sequence[ReplayFrame]) -> dict[str, SitePlan]:
        sites: dict[str, SitePlan] = {}
        for name in dict.fromkeys(frame.site for frame in frames):
            mine = [frame for frame in frames if frame.site == name]
            cameras = tuple(dict.fromkeys(frame.camera for frame in mine))
            if len(cameras) > MAX_CAMERAS_PER_SITE:
                raise ConfigError(
                    "replay",
                    f"{len(cameras)} cameras at site {name}, which may have {MAX_CAMERAS_PER_SITE}: choose some of "
                    "them with --include lb/v2/open/+/CAMERA, or let each recorded site be one without --site",
                )
            questions = tuple(
                dict.fromkeys(query.question_id for frame in mine for query in frame.queries if not query.ad_hoc)
            )
            sites[name] = SitePlan(name, mine[0].frame.boot, self._pool(name, mine), cameras, questions)
        shared = Counter(camera for site in sites.values() for camera in site.cameras)
        if twice := sorted(camera for camera, count in shared.items() if count > 1):
            raise ConfigError(
                "replay", f"camera {twice[0]} belonged to two sites in the log: put all of them into one with --site"
            )
        return sites

    def _pool(self, site: str, frames: Sequence[ReplayFrame]) -> str:
        if self._options.pool is not None:
            return self._options.pool
        recorded = {frame.latent.camera for frame in frames}
        pools = sorted(
            {trace.pool for trace in self._traffic.frames.values() if trace.camera in recorded and trace.opens}
        )
        if len(pools) > 1:
            raise ConfigError("--pool", f"the frames of {site} were opened to {', '.join(pools)}: choose a pool")
        return pools[0]

    def _questions(self, frames: Sequence[ReplayFrame]) -> list[ReplayQuestion]:
        """Each question as it stood at its first frame, and its changes from then on."""
        first: dict[tuple[str, str], ReplayFrame] = {}
        for frame in frames:
            for query in frame.queries:
                if not query.ad_hoc:
                    first.setdefault((query.question.owner, query.question_id), frame)
        found: list[ReplayQuestion] = []
        for (owner, question_id), frame in first.items():
            begun_ns = self._options.time_range.start_ns
            recorded = self._recorded_owners[owner, question_id]
            standing = self._history.at(recorded, question_id, frame.time_ns)
            if standing is not None:
                found.append(self._question(begun_ns, frame.site, standing))
            found.extend(
                self._question(changed_ns, frame.site, question)
                for changed_ns, question in self._history.changes(recorded, question_id)
                if frame.time_ns < changed_ns < self._options.time_range.stop_ns
            )
        return found

    def _question(self, time_ns: int, site: str, question: Question) -> ReplayQuestion:
        """A question as the virtual site publishes it: of its own, and of its cameras' names."""
        cameras = question.cameras and tuple(self._camera(camera) for camera in question.cameras)
        changes = {"site": site, "cameras": cameras, "set_by": "settings"}
        return ReplayQuestion(time_ns, site, question.model_copy(update=changes))

    def _asks(self, frames: Sequence[ReplayFrame]) -> list[ReplayAsk]:
        """What clients asked, for the ad-hoc queries of the frames."""
        carriers = {
            query.question.query_id(frame.camera, frame.frame): frame
            for frame in reversed(frames)
            for query in frame.queries
            if query.ad_hoc
        }
        asks: list[ReplayAsk] = []
        for recorded, query_id in self._maps.query_ids.items():
            trace: AskTrace | None = self._traffic.asks.get(recorded)
            carrier = carriers.get(query_id)
            if trace is None or carrier is None:
                continue
            ask = trace.ask.model_copy(update={"query_id": self._new_ids[recorded]})
            asked_ns = max(self._options.time_range.start_ns, min(trace.asked_ns, carrier.time_ns))
            asks.append(ReplayAsk(asked_ns, carrier.site, carrier.camera, ask))
        return asks


def _waited_ms(query: QueryTrace | Question | None, ref: QueryRef) -> int:
    """How long a frame had waited when it was opened; the wait of an ad-hoc question began before its frame."""
    if ref.ad_hoc or query is None or query.deadline_ms is None:
        return 0
    return max(0, query.deadline_ms - ref.remaining_ms)
