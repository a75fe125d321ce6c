"""Whatever a broker does to the messages of edge and workers, each question of a client ends exactly once.

A model of the other side answers each ask that reaches it as an edge session and workers do: provisional answers with
growing prefixes, perhaps of a second frame, then one terminal, on the reply topic and on the public one. The broker may
lose, repeat and reorder all of that, and the connection comes and goes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.protocol.client_ports import AnswerRead, Ending, QueryEnded
from pipeline.protocol.ports import Delivery, Publish
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
SETTINGS = ClientProtocolSettings(max_under_way=2, max_watched_queries=2, outcome_cache=len(CAMERAS) * len(IDS))
DELIVERIES = st.sampled_from(list(Delivery))


class Recorder(Driver):
    """Keeps what the session says of each asking, and of each watched query, in order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asking: Counter[str] = Counter()
        self.told: dict[tuple[str, int], list[AnswerRead | QueryEnded]] = defaultdict(list)

    def take(self, output: object) -> None:
        if isinstance(output, AnswerRead | QueryEnded) and output.mine:
            query_id = output.query_id if isinstance(output, QueryEnded) else output.message.query_id
            self.told[query_id, self.asking[query_id]].append(output)
        super().take(output)  # type: ignore[arg-type]


class Questions(RuleBasedStateMachine):
    """The client against a broker that may do anything."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Recorder(SETTINGS, auto=False)
        self.driver.start()
        self.connected = True
        self.dropped: set[tuple[str, int]] = set()
        self.wire: list[tuple[str, bytes]] = []
        self.terminals: dict[str, Answer | QueryOutcome | Receipt] = {}
        self.heard = 0
        self.tokens: list[int] = []

    # ---- the client -------------------------------------------------------------------------------------------------

    @rule(camera=st.sampled_from(CAMERAS), name=st.sampled_from(IDS), check=st.booleans())
    def ask(self, camera: str, name: str, check: bool) -> None:
        key = ad_hoc_query_id(camera, ME, name)
        asking = (key, self.driver.asking[key])
        if self.driver.asking[key] and not self.is_over(asking):
            return
        self.driver.asking[key] += 1
        self.driver.session.ask(camera, question(name, deadline_ms=DEADLINE_MS), self.driver.now_s, check=check)
        self.driver.step()

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        running = [key for key, count in self.driver.asking.items() if not self.is_over((key, count))]
        if running:
            key = data.draw(st.sampled_from(running))
            self.driver.session.drop(key, self.driver.now_s)
            self.dropped.add((key, self.driver.asking[key]))
            self.driver.step()

    @rule(cameras=st.sampled_from([None, ["gate"], ["gate", "yard"]]), again=st.booleans())
    def watch(self, cameras: list[str] | None, again: bool) -> None:
        self.driver.session.watch(cameras)
        self.driver.step()
        if again:
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
        self.driver.give(topic, payload, retained=retained, token=token)

    @rule(seconds=st.floats(0.0, 6.0))
    def time_passes(self, seconds: float) -> None:
        self.driver.at(self.driver.now_s + seconds)

    # ---- edge and workers -------------------------------------------------------------------------------------------

    def edge_hears(self, publish: Publish) -> None:
        """The edge takes the ask in, or repeats its outcome; all that is said comes on two topics."""
        ask = wire.decode_publish(publish.topic, publish.payload)[1]
        assert isinstance(ask, Ask)
        camera = topics.parse(publish.topic).name("camera")
        key = ad_hoc_query_id(camera, ME, ask.query_id)
        self.heard += 1
        if key not in self.terminals:
            frame = FrameId(1 + self.heard % 2, self.heard)
            for number, latents in enumerate((4, 9, 9, 16)):
                of = frame if number < 3 else FrameId(3, self.heard)
                self.say(answer(latents=latents, camera=camera, query=ask.query_id, frame=of))
            self.terminals[key] = [
                answer(Outcome.ANSWERED, latents=32, camera=camera, query=ask.query_id),
                outcome(camera=camera, query=ask.query_id),
                outcome(Outcome.FAILED, "over the budget of this client", camera=camera, query=ask.query_id),
                Receipt(site="north", about=ask.query_id, accepted=False, reason="unknown key"),
            ][self.heard % 4]
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
            assert all(isinstance(output, AnswerRead) for output in told[:-1])
            read = [output.message for output in told if isinstance(output, AnswerRead)]
            by_frame: dict[FrameId, list[int]] = defaultdict(list)
            for message in read:
                by_frame[message.frame].append(message.latents)
            assert all(latents == sorted(set(latents)) for latents in by_frame.values())
            # A frame that was left is not gone back to.
            frames = [message.frame for message in read]
            changes = sum(now != before for before, now in pairwise(frames))
            assert changes == max(0, len(by_frame) - 1)

    @invariant()
    def what_is_watched_ends_once(self) -> None:
        ended = Counter(output.query_id for output in self.driver.ended if output.watched)
        assert not ended or max(ended.values()) == 1

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
        over = [(key, count) for key, total in driver.asking.items() for count in range(1, total + 1)]
        assert [asking for asking in over if not self.is_over(asking)] == []
        for key, count in over:
            ends = [output for output in driver.told[key, count] if isinstance(output, QueryEnded)]
            assert len(ends) == (0 if (key, count) in self.dropped else 1)
            if ends and ends[0].ending is Ending.OUTCOME:
                assert ends[0].message == self.terminals[key]
        driver.at(driver.now_s + SETTINGS.idle_camera_s)
        while driver.pending:
            driver.settle(driver.pending.pop(), Delivery.CONNECTION_LOST)
        sizes = driver.session.sizes()
        names = ("questions", "waiting", "under_way", "timers", "cameras_asked", "cameras_idle", "subscribing")
        assert {name: sizes[name] for name in names} == dict.fromkeys(names, 0)
        assert driver.session.unfinished() == 0


Questions.TestCase.settings = settings(max_examples=examples(100), stateful_step_count=60, deadline=None)
TestQuestions = Questions.TestCase
