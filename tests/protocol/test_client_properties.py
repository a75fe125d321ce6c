"""Whatever a broker does to the messages of edge and workers, each question of a client ends exactly once.

A model of the other side answers each ask that reaches it as an edge session and workers do: provisional answers with
growing prefixes, perhaps of a second frame, then one terminal, on the reply topic and on the public one. The broker may
lose, repeat and reorder all of that, and the connection comes and goes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.protocol.client_ports import AnswerRead, ClientOutput, Ending, QueryEnded, Subscribe
from pipeline.protocol.ports import Delivery, Publish, Unsubscribe
from pipeline.protocol.settings import ClientProtocolSettings
from schemas import topics, wire
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, QueryOutcome, Receipt
from schemas.types import FrameId, Outcome
from tests.fuzz.budget import examples
from tests.protocol.client_driver import EDGE, ME, WORKER, Driver, answer, outcome, public, question, reply

CAMERAS = ("gate", "yard")
IDS = ("q-0", "q-1", "q-2")
DEADLINE_MS = 10_000
QUERIES = len(CAMERAS) * len(IDS)
SETTINGS = ClientProtocolSettings(max_under_way=2, max_watched_queries=QUERIES, outcome_cache=QUERIES)
DELIVERIES = st.sampled_from([Delivery.DELIVERED] * 8 + list(Delivery))
FORGED = "forged"


class Recorder(Driver):
    """Keeps what the session says of each asking, and of each watched query, in order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asking: Counter[str] = Counter()
        self.told: dict[tuple[str, int], list[AnswerRead | QueryEnded]] = defaultdict(list)
        self.watched: dict[str, list[AnswerRead | QueryEnded]] = defaultdict(list)
        self.granted: set[str] = set()

    def take(self, output: ClientOutput) -> None:
        if isinstance(output, AnswerRead | QueryEnded):
            query_id = output.query_id if isinstance(output, QueryEnded) else output.message.query_id
            if output.mine:
                self.told[query_id, self.asking[query_id]].append(output)
            if output.watched:
                self.watched[query_id].append(output)
            assert not isinstance(output.message, Answer) or output.message.text != FORGED
        elif isinstance(output, Unsubscribe):
            self.granted.discard(output.filter)
        elif isinstance(output, Publish):
            camera = topics.parse(output.topic).name("camera")
            replies = topics.reply_filter(ME, camera)
            one = {replies, topics.answer_topic(camera), topics.outcome_topic(camera)}
            assert one <= self.granted or {replies, "lb/v2/answer/+", "lb/v2/outcome/+"} <= self.granted
        super().take(output)

    def settle(self, output: Publish | Subscribe, delivery: Delivery = Delivery.DELIVERED) -> None:
        if isinstance(output, Subscribe) and delivery.arrived:
            self.granted.add(output.subscription.filter)
        super().settle(output, delivery)


def in_order_with_one_end(told: Sequence[AnswerRead | QueryEnded]) -> None:
    """Each answer read a longer prefix than the one before it, or a frame that was not read before; the end is last."""
    assert all(isinstance(output, AnswerRead) for output in told[:-1])
    read = [output.message for output in told if isinstance(output, AnswerRead)]
    for before, now in pairwise(read):
        assert now.frame != before.frame or now.latents > before.latents
    changes = sum(now.frame != before.frame for before, now in pairwise(read))
    assert changes == max(0, len({message.frame for message in read}) - 1)


class Questions(RuleBasedStateMachine):
    """The client against a broker that may do anything."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Recorder(SETTINGS, auto=False)
        self.driver.start(EDGE, WORKER)
        self.connected = True
        self.dropped: set[tuple[str, int]] = set()
        self.wire: list[tuple[str, bytes]] = []
        self.terminals: dict[str, Answer | QueryOutcome | Receipt] = {}
        self.heard = 0
        self.tokens: list[int] = []

    # ---- the client -------------------------------------------------------------------------------------------------

    @rule(camera=st.sampled_from(CAMERAS), name=st.sampled_from(IDS), check=st.booleans(), granted=st.booleans())
    def ask(self, camera: str, name: str, check: bool, granted: bool) -> None:
        key = ad_hoc_query_id(camera, ME, name)
        if self.driver.asking[key] and not self.is_over((key, self.driver.asking[key])):
            return
        self.driver.asking[key] += 1
        self.driver.session.ask(camera, question(name, deadline_ms=DEADLINE_MS), self.driver.now_s, check=check)
        self.driver.step()
        if granted:
            self.grant()

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        running = [key for key, count in self.driver.asking.items() if not self.is_over((key, count))]
        if running:
            key = data.draw(st.sampled_from(running))
            self.driver.session.drop(key, self.driver.now_s)
            self.dropped.add((key, self.driver.asking[key]))
            self.driver.step()

    @rule(cameras=st.sampled_from([None, ["gate"], ["gate", "yard"]]), stays=st.booleans())
    def watch(self, cameras: list[str] | None, stays: bool) -> None:
        self.driver.session.watch(cameras)
        self.driver.step()
        if not stays:
            self.driver.session.unwatch(cameras)
            self.driver.step()

    # ---- the broker -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.driver.pending)
    @rule(data=st.data(), delivery=DELIVERIES)
    def broker_answers(self, data: st.DataObject, delivery: Delivery) -> None:
        output = data.draw(st.sampled_from(self.driver.pending))
        self.driver.pending.remove(output)
        if isinstance(output, Publish) and delivery is not Delivery.REFUSED:
            self.edge_hears(output)
        self.driver.settle(output, delivery)
        self.driver.step()

    @rule()
    def connection_flips(self) -> None:
        self.connected = not self.connected
        if self.connected:
            self.driver.connect()
        else:
            self.driver.disconnect()

    @rule()
    def connection_is_back_before_it_was_missed(self) -> None:
        self.connected = True
        self.driver.session.connection(False, self.driver.now_s)
        self.driver.session.connection(True, self.driver.now_s)
        self.driver.step()

    @rule(online=st.booleans(), worker=st.booleans())
    def status(self, online: bool, worker: bool) -> None:
        self.driver.status((WORKER if worker else EDGE).model_copy(update={"online": online}))

    @precondition(lambda self: self.wire)
    @rule(data=st.data(), again=st.booleans(), retained=st.booleans())
    def deliver(self, data: st.DataObject, again: bool, retained: bool) -> None:
        index = data.draw(st.integers(0, len(self.wire) - 1))
        topic, payload = self.wire[index] if again else self.wire.pop(index)
        token = len(self.tokens) if again else None
        if token is not None:
            self.tokens.append(token)
        before = self.said_so_far()
        self.driver.give(topic, payload, retained=retained, token=token)
        assert not retained or self.said_so_far() == before

    @precondition(lambda self: self.wire)
    @rule(count=st.integers(1, 12))
    def deliver_in_order(self, count: int) -> None:
        for _ in range(min(count, len(self.wire))):
            self.driver.give(*self.wire.pop(0))

    @rule(name=st.sampled_from(IDS), mine=st.booleans(), reply_topic=st.booleans())
    def somebody_else_claims_to_answer(self, name: str, mine: bool, reply_topic: bool) -> None:
        """Who may answer for one camera only names a question to another one, or a client that did not ask."""
        forged = answer(Outcome.ANSWERED, FORGED, camera="gate", query=name)
        change = {"camera": "yard"} if mine else {"owner": "client/bob"}
        forged = forged.model_copy(update=change)
        client = forged.owner.removeprefix("client/")
        own = topics.reply_topic(client, forged.camera, name)
        self.driver.give(own if reply_topic else topics.answer_topic(forged.camera), forged)

    @rule(seconds=st.floats(0.0, 6.0))
    def time_passes(self, seconds: float) -> None:
        self.driver.at(self.driver.now_s + seconds)

    @rule()
    def everything_calms_down(self) -> None:
        """With a connection, an edge, and a broker that does its work, every question gets what the edge said."""
        if not self.connected:
            self.connection_flips()
        self.driver.status(EDGE)
        self.wire.clear()  # lost on a connection that is gone, so that only asking again brings it
        self.connection_is_back_before_it_was_missed()
        for _ in range(2):  # again for what was tried once more after a while
            while self.driver.pending:
                output = self.driver.pending.pop(0)
                if isinstance(output, Publish):
                    self.edge_hears(output)
                self.driver.settle(output)
                self.driver.step()
            while self.wire:
                self.driver.give(*self.wire.pop(0))
            self.driver.at(self.driver.now_s + SETTINGS.retry_s)
        assert self.driver.session.unfinished() == 0

    def grant(self) -> None:
        """The broker grants what is subscribed to."""
        for output in [output for output in self.driver.pending if isinstance(output, Subscribe)]:
            self.driver.pending.remove(output)
            self.driver.settle(output)
        self.driver.step()

    def said_so_far(self) -> tuple[int, int]:
        return len(self.driver.read), len(self.driver.ended)

    # ---- edge and workers -------------------------------------------------------------------------------------------

    def edge_hears(self, publish: Publish) -> None:
        """The edge takes the ask in, or repeats its outcome; all that is said comes on two topics."""
        ask = wire.decode_publish(publish.topic, publish.payload)[1]
        assert isinstance(ask, Ask)
        camera = topics.parse(publish.topic).name("camera")
        key = ad_hoc_query_id(camera, ME, ask.query_id)
        self.heard += 1
        if key not in self.terminals:
            for boot, latents in ((1, 4), (1, 9), (1, 9), (2, 9), (2, 16)):  # the edge starts again meanwhile
                frame = FrameId(boot, self.heard)
                self.say(answer(latents=latents, camera=camera, query=ask.query_id, frame=frame))
            choices: list[Answer | QueryOutcome | Receipt] = [
                answer(Outcome.ANSWERED, latents=32, camera=camera, query=ask.query_id),
                outcome(camera=camera, query=ask.query_id),
                outcome(Outcome.FAILED, "over the budget of this client", camera=camera, query=ask.query_id),
                Receipt(site="north", about=ask.query_id, accepted=False, reason="unknown key"),
            ]
            self.terminals[key] = choices[self.heard % 4]
        terminal = self.terminals[key]
        if isinstance(terminal, Receipt):
            self.wire.append((topics.reply_topic(ME, camera, ask.query_id), wire.encode(terminal)))
        else:
            self.say(terminal)

    def say(self, message: Answer | QueryOutcome) -> None:
        self.wire += [(reply(message), wire.encode(message)), (public(message), wire.encode(message))]

    # ---- what holds -------------------------------------------------------------------------------------------------

    def is_over(self, asking: tuple[str, int]) -> bool:
        told = self.driver.told[asking]
        return asking in self.dropped or bool(told and isinstance(told[-1], QueryEnded))

    @invariant()
    def an_asking_ends_once_and_nothing_comes_after_it(self) -> None:
        for told in self.driver.told.values():
            in_order_with_one_end(told)

    @invariant()
    def what_is_watched_ends_once_and_nothing_comes_after_it(self) -> None:
        for told in self.driver.watched.values():
            in_order_with_one_end(told)

    @invariant()
    def tokens_are_used_once(self) -> None:
        assert not self.driver.tokens or max(self.driver.tokens.values()) == 1
        assert self.driver.acknowledged == self.tokens

    @invariant()
    def few_are_under_way(self) -> None:
        assert self.driver.session.sizes()["under_way"] <= SETTINGS.max_under_way

    def teardown(self) -> None:
        """Past the last deadline everything is over, and nothing is kept."""
        driver = self.driver
        driver.at(driver.now_s + DEADLINE_MS / 1000 + SETTINGS.reply_margin_s)
        for key, total in driver.asking.items():
            for asking in ((key, count) for count in range(1, total + 1)):
                assert self.is_over(asking), asking
                ends = [output for output in driver.told[asking] if isinstance(output, QueryEnded)]
                assert len(ends) == (0 if asking in self.dropped else 1)
                if ends and ends[0].ending is Ending.OUTCOME:
                    assert ends[0].message == self.terminals[key]
        driver.at(driver.now_s + SETTINGS.idle_camera_s)
        while driver.pending:
            driver.settle(driver.pending.pop(), Delivery.CONNECTION_LOST)
        sizes = driver.session.sizes()
        names = ("questions", "waiting", "under_way", "timers", "cameras_asked", "cameras_idle", "subscribing")
        assert {name: sizes[name] for name in names} == dict.fromkeys(names, 0)
        assert driver.session.unfinished() == 0


Questions.TestCase.settings = settings(max_examples=examples(150), stateful_step_count=50, deadline=None)
TestQuestions = Questions.TestCase
