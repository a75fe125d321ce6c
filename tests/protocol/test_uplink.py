from __future__ import annotations

from collections import Counter

import pytest

from pipeline.protocol.departures import TRAFFIC_CLASS_LIMITS, Departure, TrafficClass
from pipeline.protocol.effects import Utility
from pipeline.protocol.ports import Acknowledge, Contained, Delivery, Problem, Publish, Sent
from pipeline.protocol.uplink import ACKNOWLEDGE_WAIT_S, CHARGE_TLS, MAX_UNDER_WAY, Uplink, UplinkOutput
from schemas import wire
from schemas.messages import Chunk, Message, Revoke
from schemas.types import FrameId
from schemas.wire_cost import PUBACK_BYTES, publish_packet_bytes, publish_wire_bytes, transport_wire_bytes

FRAME = FrameId(7, 1)
TOPIC = "lb/v2/chunk/w-1/gate"


def chunk(size: int = 100, start: int = 0) -> Chunk:
    return Chunk(camera="gate", frame=FRAME, attempt=1, start=start, stop=start + 1, payload=bytes(size))


class Site:
    """An uplink on a clock that stands until it is turned, and what leaves."""

    def __init__(
        self, rate_kbps: float | None = None, *, connected: bool = True, gather_s: float = 0.0, company: int = 0
    ) -> None:
        self.now_s = 1000.0
        self.sent: list[Sent] = []
        self.published: list[Publish] = []
        self.acknowledged: list[int] = []
        self.problems: list[Problem] = []
        self.deliveries: list[Delivery] = []
        self.results: list[Delivery] = []
        self.ends_s = self.now_s + 60.0
        self.uplink = Uplink(rate_kbps, gather_s=gather_s, company=company)
        self.uplink.connection(connected)

    def send(self, message: Message | None = None, **fields: object) -> None:
        values: dict[str, object] = {
            "traffic_class": TrafficClass.FRAME_UNDER_WAY,
            "camera": "gate",
            "label": "chunk",
            "topic": TOPIC,
            "stamp": lambda _now_s: message or chunk(),
            "utility": lambda now_s: None if now_s > self.ends_s else Utility(1.0, 100, self.ends_s - 1.0, self.ends_s),
            "done": lambda delivery, _now_s: self.results.append(delivery),
        }
        self.uplink.put(Departure(**{**values, **fields}), self.now_s)  # type: ignore[arg-type]
        self.take()

    def pump(self) -> None:
        """Everything that may leave at this moment."""
        while self.uplink.send_next(self.now_s):
            self.take()
        self.uplink.acknowledge_due(self.now_s)
        self.take()

    def run(self, until_s: float = float("inf")) -> None:
        """Let time pass until nothing waits."""
        self.pump()
        while (due_s := self.uplink.next_wake_s()) is not None and due_s <= until_s:
            self.now_s = max(self.now_s, due_s)
            self.pump()

    def take(self) -> None:
        while outputs := self.uplink.take_outputs():
            for output in outputs:
                self.carry_out(output)

    def carry_out(self, output: UplinkOutput) -> None:
        match output:
            case Publish():
                delivery = self.deliveries.pop(0) if self.deliveries else Delivery.DELIVERED
                if delivery.arrived:
                    self.published.append(output)
                self.uplink.published(output.token, delivery, self.now_s)
            case Sent():
                self.sent.append(output)
            case Acknowledge():
                self.acknowledged += output.tokens
                self.uplink.acknowledged(len(output.tokens), self.now_s)
            case Problem():
                self.problems.append(output)
            case Contained():
                raise output.error


def test_each_publish_is_charged_with_its_headers() -> None:
    site = Site()
    message = chunk(300)
    site.send(message, frame=FRAME)
    site.run()
    payload = wire.encode(message)
    ((topic, data, qos),) = [(publish.topic, publish.payload, publish.qos) for publish in site.published]
    assert (topic, data, qos) == (TOPIC, payload, 0)
    (sent,) = site.sent
    assert sent.wire_bytes == publish_wire_bytes(TOPIC, len(payload), 0, tls=CHARGE_TLS)
    assert (sent.camera, sent.label, sent.frame, sent.latent_bytes) == ("gate", "chunk", FRAME, 300)


def test_the_rate_holds_over_many_messages() -> None:
    site = Site(rate_kbps=64)
    began_s = site.now_s
    for number in range(50):
        site.send(chunk(100 + number))
    site.run()
    took_s = site.sent[-1].at_s - began_s
    before_last = sum(sent.wire_bytes for sent in site.sent if sent.at_s < site.sent[-1].at_s)
    assert took_s == pytest.approx(before_last / 8000 - 0.02, rel=1e-6)


def test_a_message_is_stamped_when_it_leaves_and_not_when_it_is_queued() -> None:
    site = Site(rate_kbps=8)
    stamps: list[float] = []

    def stamp(now_s: float) -> Message | None:
        stamps.append(now_s)
        return chunk()

    queued_s = site.now_s
    site.send(chunk(2000))
    site.send(stamp=stamp)
    site.run()
    assert len(stamps) == 1
    assert stamps[0] - queued_s == pytest.approx(site.sent[0].wire_bytes / 1000 - 0.02)


def test_what_is_withdrawn_costs_nothing() -> None:
    site = Site(rate_kbps=8)
    site.send(stamp=lambda _now_s: None, traffic_class=TrafficClass.OPEN, label="open")
    site.send()
    site.run()
    assert [sent.label for sent in site.sent] == ["chunk"]
    assert site.uplink.counters["withdrawn_open_decided"] == 1


def test_what_waits_past_its_end_is_withdrawn_and_makes_room() -> None:
    site = Site(rate_kbps=8, connected=False)
    ends_s = site.now_s + 1.0
    utility = Utility(1.0, 100, ends_s - 0.5, ends_s)
    site.send(traffic_class=TrafficClass.OPEN, label="open", utility=lambda now_s: None if now_s > ends_s else utility)
    site.send(chunk(200))
    site.now_s += 2.0
    site.uplink.connection(True)
    site.run()
    assert [sent.label for sent in site.sent] == ["chunk"]
    assert site.uplink.counters == {"withdrawn_open_too_late": 1}


def test_what_left_says_where_and_how_long_it_waited() -> None:
    site = Site(rate_kbps=8)
    site.send(chunk(1000))
    site.send(chunk(1000), traffic_class=TrafficClass.OPEN, label="open")
    site.run()
    first, second = site.sent
    assert (first.traffic_class, first.waited_s) == (TrafficClass.FRAME_UNDER_WAY, 0.0)
    assert second.traffic_class is TrafficClass.OPEN
    assert second.waited_s == pytest.approx(first.wire_bytes / 1000 - 0.02)


def test_nothing_leaves_without_a_connection() -> None:
    site = Site(connected=False)
    site.send()
    assert site.uplink.next_wake_s() is None
    site.pump()
    assert (site.published, site.uplink.unsent) == ([], 1)
    site.uplink.connection(True)
    site.run()
    assert len(site.published) == 1


def test_what_nobody_else_repeats_is_sent_again_after_a_lost_connection() -> None:
    site = Site()
    site.deliveries = [Delivery.CONNECTION_LOST] * 3
    site.send(traffic_class=TrafficClass.REPORT, label="outcome", qos=1, until_sent=True)
    site.run()
    assert site.results == [Delivery.DELIVERED]
    assert site.uplink.counters["again_outcome"] == 3
    site.deliveries = [Delivery.CONNECTION_LOST]
    site.send(traffic_class=TrafficClass.OPEN, label="open", qos=1)
    site.run()
    assert site.results[1:] == [Delivery.CONNECTION_LOST]
    assert len(site.published) == 1


def test_a_refusal_is_told_and_not_repeated() -> None:
    site = Site()
    site.deliveries = [Delivery.REFUSED]
    site.send(qos=1, until_sent=True)
    site.run()
    assert site.results == [Delivery.REFUSED]
    assert site.uplink.counters["failed_refused"] == 1
    assert (site.published, site.uplink.unsent) == ([], 0)


def test_no_subscribers_is_passed_on() -> None:
    site = Site()
    site.deliveries = [Delivery.NO_SUBSCRIBERS]
    site.send(traffic_class=TrafficClass.OPEN, label="open", qos=1)
    site.run()
    assert site.results == [Delivery.NO_SUBSCRIBERS]


def test_a_full_queue_drops_counts_and_tells() -> None:
    site = Site(connected=False)
    for _ in range(TRAFFIC_CLASS_LIMITS[TrafficClass.FRAME_UNDER_WAY]):
        site.send()
    assert site.results == []
    site.send()
    assert site.results == [Delivery.REFUSED]
    assert site.uplink.counters["dropped_chunk"] == 1
    assert [problem.kind for problem in site.problems] == ["uplink/chunk"]


def test_a_message_that_is_too_large_ends_alone() -> None:
    site = Site()
    site.send(chunk().model_copy(update={"payload": bytes(200_000)}))
    site.send()
    site.run()
    assert site.results == [Delivery.REFUSED, Delivery.DELIVERED]
    assert site.uplink.counters["failed_too_large"] == 1


def test_no_more_publishes_are_under_way_than_the_bound() -> None:
    uplink = Uplink(None)
    uplink.connection(True)
    for number in range(MAX_UNDER_WAY + 5):
        uplink.put(Departure(TrafficClass.REPORT, "gate", "chunk", TOPIC, lambda _now_s: chunk(), qos=1), float(number))
    while uplink.send_next(100.0):
        pass
    publishes = [output for output in uplink.take_outputs() if isinstance(output, Publish)]
    assert len(publishes) == MAX_UNDER_WAY
    assert uplink.next_wake_s() is None
    uplink.published(publishes[3].token, Delivery.DELIVERED, 101.0)
    assert uplink.send_next(101.0)
    assert not uplink.send_next(101.0)
    assert (uplink.under_way, uplink.waiting) == (MAX_UNDER_WAY, 4)


def test_acknowledgements_are_charged_together() -> None:
    site = Site(rate_kbps=64)
    for token in range(3):
        site.uplink.acknowledge(token)
    site.run()
    assert site.acknowledged == [0, 1, 2]
    wire_bytes = transport_wire_bytes(3 * PUBACK_BYTES, tls=CHARGE_TLS)
    assert [(sent.label, sent.wire_bytes) for sent in site.sent] == [("puback", wire_bytes)]
    site.uplink.acknowledge(3)
    assert site.uplink.next_wake_s() == site.now_s + ACKNOWLEDGE_WAIT_S


def test_revoke_overtakes_opens_that_wait_for_the_rate() -> None:
    site = Site(rate_kbps=8)
    site.send(chunk(1000))
    site.pump()
    for _ in range(3):
        site.send(traffic_class=TrafficClass.OPEN, label="open")
    site.send(Revoke(camera="gate", frame=FRAME, attempt=1), label="revoke", frame=FRAME, utility=None)
    site.run()
    assert [sent.label for sent in site.sent] == ["chunk", "revoke", "open", "open", "open"]


def test_what_leaves_at_one_moment_shares_its_headers() -> None:
    site = Site()
    for _ in range(3):
        site.send()
    site.run()
    packet_bytes = publish_packet_bytes(TOPIC, len(wire.encode(chunk())), 0)
    assert [sent.wire_bytes for sent in site.sent] == [
        transport_wire_bytes(number * packet_bytes) - transport_wire_bytes((number - 1) * packet_bytes)
        for number in (1, 2, 3)
    ]
    assert sum(sent.wire_bytes for sent in site.sent) == transport_wire_bytes(3 * packet_bytes)
    site.now_s += 0.001
    site.send()
    site.run()
    assert site.sent[-1].wire_bytes == transport_wire_bytes(packet_bytes)


def test_on_a_thin_uplink_only_as_much_leaves_together_as_takes_no_time() -> None:
    """The first of them arrives with the last: 50 ms at most, and the long-run rate holds all the same."""
    site = Site(rate_kbps=64)
    began_s = site.now_s
    for _ in range(12):
        site.send(chunk(100))
    site.run()
    together = Counter(sent.at_s for sent in site.sent)
    assert set(together.values()) == {3}  # the third begins within 400 bytes
    before_last = sum(sent.wire_bytes for sent in site.sent if sent.at_s < site.sent[-1].at_s)
    assert site.sent[-1].at_s - began_s == pytest.approx(before_last / 8000 - 0.02)


def test_a_segment_is_filled_and_no_more() -> None:
    site = Site(rate_kbps=240)
    for _ in range(20):
        site.send(chunk(300))
    site.run()
    assert set(Counter(sent.at_s for sent in site.sent).values()) == {5}  # the fifth begins within the segment


def test_patient_messages_wait_for_company_and_others_for_nobody() -> None:
    site = Site(gather_s=0.2, company=3)
    began_s = site.now_s
    site.send(patient=True)
    site.run(began_s + 0.1)
    assert site.sent == []
    site.now_s = began_s + 0.15
    site.send(patient=True)
    site.run()
    assert [sent.at_s for sent in site.sent] == [pytest.approx(began_s + 0.2)] * 2  # the first one's time is over
    began_s = site.now_s = began_s + 1.0
    for _ in range(3):
        site.send(patient=True)
    site.run(began_s)
    assert len(site.sent) == 5  # everybody is there
    site.send(patient=True)
    site.send()
    site.run(began_s)
    assert len(site.sent) == 7  # somebody waits for the second one: the first goes along


def test_known_topics_cost_three_bytes_and_each_connection_learns_them_anew() -> None:
    site = Site()
    site.uplink.connection(True, 10)
    payload_bytes = len(wire.encode(chunk()))
    name, alias = publish_packet_bytes(TOPIC, payload_bytes, 0), publish_packet_bytes("", payload_bytes, 0) + 3
    for expected in (name, name + 3, alias, alias):
        site.now_s += 1.0
        site.send()
        site.run()
        assert site.sent[-1].wire_bytes == transport_wire_bytes(expected)
    site.uplink.connection(True, 10)
    site.now_s += 1.0
    site.send()
    site.run()
    assert site.sent[-1].wire_bytes == transport_wire_bytes(name)
