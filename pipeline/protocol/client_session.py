"""The client's side of the protocol, without clock or socket: questions, messages and the time go in, answers come out.

One session serves any number of questions, and readers of cameras. Life of a question::

      ask -> WAITING ---------------------> ASKED ------------------> over, once
               |   connected, its topics      |   terminal message, receipt that refuses it,
               |   granted, an edge serves    |   deadline and a margin over
               |   the camera                 |
               |                              +--> WAITING: connection lost, or no answer to the publish
               +--> over: no edge serves the camera, or the broker refuses

It is asked again after every reconnect, which is harmless: camera, client and query id are its key, and an edge that
has its outcome repeats it. Its replies come below the client's own name, and again on the public topics of the camera.

What is subscribed to is in :mod:`~pipeline.protocol.client_topics`, the order of provisional answers in
``client_questions``, what the statuses tell in ``fleet_view``. Inputs and outputs are those of docs/shell-contract.md.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, OrderedDict
from collections.abc import Collection

from pipeline.protocol.client_ports import AnswerRead, ClientOutput, Ending, QueryEnded, WatchEnded
from pipeline.protocol.client_questions import Progress, Question, key_of
from pipeline.protocol.client_topics import ClientTopics
from pipeline.protocol.fleet_view import FleetView
from pipeline.protocol.ports import Acknowledge, Delivery, Problem, Publish, Received, Subscription
from pipeline.protocol.reducer import OutcomeReducer
from pipeline.protocol.settings import ClientProtocolSettings
from pipeline.protocol.timers import Timers
from schemas import topics, wire
from schemas.errors import RemoteError, StateError, TooManyQuestionsError
from schemas.identity import ad_hoc_query_id, owner_of
from schemas.messages import Answer, Ask, QueryOutcome, Receipt, SiteConfig, Status
from schemas.messages import Question as QuestionMessage
from schemas.topics import Family, Topic
from schemas.types import Outcome

WORKERS_UNSEEN = "this identity may not read the status of workers: ask an operator whether the pool has any"


class ClientSession:
    """All questions of one client.

    Args:
        client: who asks: the last level of its ask topics, and the name below which its replies come.
        settings: times and bounds.
        whole_fleet: loads of workers and texts of standing questions are read as well, see :attr:`fleet`.

    Attributes:
        counters: what happened, by reason.
        fleet: what edges and workers say of themselves.
        reducer: outcomes that were read; its repeats and conflicts are counted there.
    """

    def __init__(
        self, client: str, settings: ClientProtocolSettings | None = None, *, whole_fleet: bool = False
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.fleet = FleetView()
        self._settings = settings or ClientProtocolSettings()
        self.reducer = OutcomeReducer(capacity=self._settings.outcome_cache)
        self._client = client
        self._owner = owner_of("client", client)
        self._topics = ClientTopics(client, self._settings.idle_camera_s, whole_fleet=whole_fleet)
        self._questions: dict[str, Question] = {}
        self._waiting: dict[str, None] = {}
        self._under_way: dict[int, str] = {}
        self._timers: Timers[str] = Timers(self._due_s)
        self._watched: OrderedDict[str, Progress] = OrderedDict()
        self._tokens = itertools.count(1)
        self._settled_s: float | None = None
        self._received: list[int] = []
        self._out: list[ClientOutput] = []

    # ---- what the shell reads ---------------------------------------------------------------------------------------

    def subscriptions(self) -> list[Subscription]:
        """What to subscribe to with the first connection."""
        return self._topics.first()

    def poll(self, now_s: float) -> list[ClientOutput]:
        """What to do now, in order."""
        for query_id in self._timers.take_due(now_s):
            self._due(query_id, now_s)
        self._ask_waiting(now_s)
        self._topics.expire(now_s)
        out: list[ClientOutput] = [Acknowledge(tuple(self._received))] if self._received else []
        self._received.clear()
        if self._settled_s is not None:
            out += self._topics.changes(self._tokens)
        out += self._out
        self._out = []
        return out

    def next_wake_s(self) -> float | None:
        """When :meth:`poll` is due next, None while nothing can time out."""
        return min((at_s for at_s in (self._timers.next_s(), self._topics.next_s()) if at_s is not None), default=None)

    def cause(self, camera: str, *, certain: bool = False) -> str | None:
        """Why a camera gives no answers, as far as the statuses tell.

        Args:
            camera: its name.
            certain: leave out that something cannot be seen.
        """
        problem = self.fleet.problem(camera)
        if problem is None and not certain and not self.fleet.workers_are_seen:
            return WORKERS_UNSEEN
        return problem

    def unfinished(self) -> int:
        """Questions without an outcome."""
        return len(self._questions)

    def sizes(self) -> dict[str, int]:
        """Entries of every table that it keeps."""
        return {
            "questions": len(self._questions),
            "waiting": len(self._waiting),
            "under_way": len(self._under_way),
            "timers": len(self._timers),
            "watched_queries": len(self._watched),
            **self._topics.sizes(),
            **self.fleet.sizes(),
        }

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def ask(self, camera: str, message: Ask, now_s: float, *, check: bool = True) -> str:
        """Ask a camera a question, now and after each reconnect, until it is over.

        Args:
            camera: name of the camera.
            message: the question; its query id is unique among those of this client to this camera.
            now_s: the client's monotonic time.
            check: ask only where an edge that is online serves the camera.

        Returns:
            Key of the query.

        Raises:
            TopicError: the camera has no name that can stand in a topic.
            StateError: a question of this id has no outcome yet.
            TooManyQuestionsError: as many have no outcome as may.
        """
        topics.ask_topic(camera, self._client)
        query_id = ad_hoc_query_id(camera, self._client, message.query_id)
        if query_id in self._questions:
            raise StateError(f"query {query_id} is asked already")
        if len(self._questions) >= self._settings.max_questions:
            raise TooManyQuestionsError(camera, self._settings.max_questions)
        self._questions[query_id] = Question(camera, message, wire.encode(message), now_s, check)
        self._topics.asked(camera)
        self._wait(query_id)
        return query_id

    def drop(self, query_id: str, now_s: float) -> None:
        """Nobody waits for this question any more, if it is not over: nothing more is said of it."""
        self._remove(query_id, now_s)

    def watch(self, cameras: Collection[str] | None) -> None:
        """Read all queries of these cameras, of whomever, until as often :meth:`unwatch`; None reads all cameras.

        Raises:
            TopicError: a camera has no name that can stand in a topic.
        """
        for camera in cameras or ():
            topics.answer_topic(camera)
        self._topics.watch([None] if cameras is None else cameras)

    def unwatch(self, cameras: Collection[str] | None) -> None:
        """One reader of these cameras is gone."""
        self._topics.unwatch([None] if cameras is None else cameras)

    def connection(self, connected: bool, now_s: float) -> None:
        """The connection came up with every subscription granted, or went down."""
        if not connected:
            self._settled_s = None
            return
        self._settled_s = now_s + self._settings.status_patience_s
        self._topics.connected()
        self.fleet.connected()
        for query_id, question in self._questions.items():
            question.token = question.retry_s = None
            self._wait(query_id)

    def receive(self, received: Received, now_s: float) -> None:
        """A publish came."""
        if received.token is not None:
            self._received.append(received.token)
        try:
            topic, message = received.decode()
        except RemoteError as error:
            reason = getattr(error, "reason", type(error).__name__)
            self._problem(reason, str(error), about=error.about, error=error)
            return
        if topic.family is Family.STATUS:
            if isinstance(message, Status):
                self.fleet.observe(message)
            else:
                self.fleet.forget(topic.name("kind"), topic.name("id"))
        elif topic.family is Family.LOAD and isinstance(message, Status):
            self.fleet.observe_load(message)
        elif topic.family is Family.QUESTION and isinstance(message, QuestionMessage | None):
            self.fleet.observe_question(topic.name("site"), topic.name("question_id"), message)
        elif topic.family is Family.CONFIG and isinstance(message, SiteConfig | None):
            self.fleet.observe_config(topic.name("site"), message)
        elif isinstance(message, Answer | QueryOutcome | Receipt):
            if received.retained:
                # Answers are never retained: this one was left there by somebody, before the question.
                self._problem("retained", f"{topic.family}: retained, which no answer is", logged=False)
            elif isinstance(message, Receipt):
                self._receipt(topic, message, now_s)
            else:
                self._read(message, now_s)

    def published(self, token: int, delivery: Delivery, now_s: float) -> None:
        """What became of a publish.

        Raises:
            StateError: there was none of this token, or it was answered before.
        """
        query_id = self._under_way.pop(token, None)
        if query_id is None:
            raise StateError(f"publish {token} has no answer to come")
        question = self._questions.get(query_id)
        if question is None or question.token != token:
            return  # over, or asked again since
        question.token = None
        self.counters[f"ask_{delivery.name.lower()}"] += 1
        if delivery is Delivery.REFUSED:
            self._end(query_id, Ending.BROKER_REFUSES, now_s, reason="the broker refuses the question")
        elif not delivery.arrived:
            question.retry_s = now_s + self._settings.retry_s
            self._wait(query_id)

    def subscribed(self, token: int, delivery: Delivery, now_s: float) -> None:
        """What became of a :class:`~pipeline.protocol.client_ports.Subscribe`.

        Raises:
            StateError: there was none of this token, or it was answered before.
        """
        refused, unread = self._topics.subscribed(token, delivery)
        self.fleet.workers_are_seen = self._topics.workers_are_seen
        for camera in refused:
            for query_id in [key for key, question in self._questions.items() if question.camera == camera]:
                self._end(query_id, Ending.BROKER_REFUSES, now_s, reason="the broker does not let its answers be read")
            self._topics.forget_idle(camera)
        self._out += [WatchEnded(camera) for camera in unread]

    def unsubscribed(self, topic_filter: str, now_s: float) -> None:  # noqa: ARG002 - as of all machines
        """An :class:`~pipeline.protocol.ports.Unsubscribe` is done."""
        self._topics.unsubscribed(topic_filter)

    # ---- questions --------------------------------------------------------------------------------------------------

    def _wait(self, query_id: str) -> None:
        self._waiting[query_id] = None
        self._timers.touch(query_id)

    def _due_s(self, query_id: str) -> float | None:
        question = self._questions.get(query_id)
        if question is None:
            return None
        due_s = [question.began_s() + question.limit_s(self._settings.reply_margin_s)]
        if query_id in self._waiting and self._settled_s is not None:
            if question.retry_s is not None:
                due_s.append(question.retry_s)
            elif question.check:
                due_s.append(max(self._settled_s, question.since_s))
        return min(due_s)

    def _due(self, query_id: str, now_s: float) -> None:
        question = self._questions[query_id]
        if now_s >= question.began_s() + question.limit_s(self._settings.reply_margin_s):
            self._end(query_id, Ending.NO_OUTCOME, now_s)
        elif question.retry_s is not None:
            question.retry_s = None
        elif question.check and not self.fleet.serves(question.camera):
            problem = self.fleet.problem(question.camera) or ""
            self._end(query_id, Ending.CAMERA_UNKNOWN, now_s, reason=problem)
        else:
            question.check = False  # one does; what is waited for is the broker's word on its topics, or room

    def _ask_waiting(self, now_s: float) -> None:
        if self._settled_s is None:
            return
        ready: list[str] = []
        for query_id in self._waiting:
            if len(self._under_way) + len(ready) >= self._settings.max_under_way:
                break
            question = self._questions[query_id]
            served = not question.check or self.fleet.serves(question.camera)
            if served and question.retry_s is None and self._topics.may_ask(question.camera):
                ready.append(query_id)
        for query_id in ready:
            self._publish(query_id, self._questions[query_id], now_s)

    def _publish(self, query_id: str, question: Question, now_s: float) -> None:
        token = next(self._tokens)
        self.counters["asked" if question.asked_s is None else "asked_again"] += 1
        question.token = token
        question.check = False
        if question.asked_s is None:
            question.asked_s = now_s
        self._under_way[token] = query_id
        del self._waiting[query_id]
        self._timers.touch(query_id)
        own_id = question.message.query_id
        self._out.append(
            Publish(
                topics.ask_topic(question.camera, self._client),
                question.message,
                question.payload,
                1,
                token,
                Family.ASK,
                response_topic=topics.reply_topic(self._client, question.camera, own_id),
                correlation_data=own_id.encode(),
                expiry_s=max(1, math.ceil(question.message.deadline_ms / 1000)),
            )
        )

    def _end(
        self,
        query_id: str,
        ending: Ending,
        now_s: float,
        message: Answer | QueryOutcome | None = None,
        *,
        watched: bool = False,
        reason: str = "",
        site: str = "",
    ) -> None:
        question = self._remove(query_id, now_s)
        if question is None:
            return
        self.counters[f"ended_{ending.name.lower()}"] += 1
        camera, cause, limit_s = question.camera, None, 0.0
        if ending is Ending.NO_OUTCOME:
            cause, limit_s = self.cause(camera), question.limit_s(self._settings.reply_margin_s)
        elif message is not None and message.outcome in (Outcome.EXPIRED, Outcome.FAILED):
            # A failed question has said why; only what the statuses show for certain is added.
            cause = self.cause(camera, certain=message.outcome is Outcome.FAILED)
        self._out.append(QueryEnded(query_id, camera, ending, message, True, watched, reason, site, cause, limit_s))

    def _remove(self, query_id: str, now_s: float) -> Question | None:
        question = self._questions.pop(query_id, None)
        if question is not None:
            self._waiting.pop(query_id, None)
            self._timers.touch(query_id)
            self._topics.ended(question.camera, now_s)
        return question

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _receipt(self, topic: Topic, receipt: Receipt, now_s: float) -> None:
        if topic.family is not Family.REPLY or topic.name("client") != self._client or receipt.accepted:
            return
        # The topic says which question it is; the message may not have had a readable id.
        query_id = ad_hoc_query_id(topic.name("camera"), self._client, topic.name("query_id"))
        self._end(query_id, Ending.EDGE_REFUSES, now_s, reason=receipt.reason, site=receipt.site)

    def _read(self, message: Answer | QueryOutcome, now_s: float) -> None:
        query_id, mine = message.query_id, message.owner == self._owner
        watched = self._topics.watches(message.camera)
        question = self._questions.get(query_id)
        # The broker's rules guard the camera in the topic; the key in the payload must be one of that camera.
        if query_id != key_of(message):
            text = f"camera {message.camera}: query {query_id} is none of this camera, owner and question"
            self._problem("foreign", text, about=message.camera)
            return
        if not mine and not watched:
            self.counters["unrelated"] += 1
        elif message.outcome is None:
            assert isinstance(message, Answer)  # noqa: S101 - outcomes of the edge are terminal by their type
            self._provisional(message, question, watched)
        else:
            decided = self.reducer.observe(message, now_s)
            new = watched and decided is not None
            first = decided or self.reducer.get(query_id)
            self._watched.pop(query_id, None)
            if question is not None and first is not None:
                self._end(query_id, Ending.OUTCOME, now_s, first.source, watched=new)
            elif new:
                self._out.append(QueryEnded(query_id, message.camera, Ending.OUTCOME, message, False, True))

    def _provisional(self, answer: Answer, question: Question | None, watched: bool) -> None:
        mine = question is not None and question.progress.advance(answer)
        if watched and self.reducer.get(answer.query_id) is None:
            progress = self._watched.pop(answer.query_id, None) or Progress()
            self._watched[answer.query_id] = progress
            if len(self._watched) > self._settings.max_watched_queries:
                self._watched.popitem(last=False)
            watched = progress.advance(answer)
        else:
            watched = False
        if mine or watched:
            self._out.append(AnswerRead(answer, mine, watched))
        else:
            self.counters["provisional_repeated"] += 1

    def _problem(
        self, reason: str, text: str, *, about: str = "", error: Exception | None = None, logged: bool = True
    ) -> None:
        self.counters[f"dropped_{reason}"] += 1
        self._out.append(Problem(f"client/{reason}", text, about, error, logged))
