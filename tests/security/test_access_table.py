"""Every role against every topic, publish and subscribe, on a real Mosquitto.

What is allowed is written out here by hand: the rules under test are not asked.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from broker_config.fleet_folder import FleetFolder
from broker_config.launcher import LocalBroker
from schemas.topics import ROUTES
from tests.security.conftest import DEVICES
from tests.security.probe import Probe, granted

pytestmark = pytest.mark.broker

TOPICS = [
    f"lb/v2/{below}"
    for below in (
        "open/main/gate", "open/main/yard", "open/other/gate",
        "chunk/w1/gate", "chunk/w1/yard", "chunk/w2/gate",
        "key/main/gate", "key/main/yard", "key/other/gate",
        "handover/w1", "handover/w2",
        "control/gate", "control/yard",
        "answer/gate", "answer/yard",
        "outcome/gate", "outcome/yard",
        "question/north/car", "question/north/fire", "question/south/car", "question/west/car",
        "config/north", "config/south",
        "ask/gate/alice", "ask/gate/guard", "ask/gate/web", "ask/gate/olga", "ask/gate/screen", "ask/gate/north",
        "ask/yard/alice", "ask/yard/guard", "ask/yard/web", "ask/yard/olga", "ask/invented/alice",
        "reply/alice/gate/q1", "reply/guard/gate/q1", "reply/web/gate/q1", "reply/olga/gate/q1", "reply/screen/gate/q1",
        "reply/alice/yard/q1", "reply/guard/yard/q1",
        "receipt/olga/north/car", "receipt/olga/south/car", "receipt/alice/north/car", "receipt/web/north/car",
        "status/edge/north", "status/edge/south", "status/worker/w1", "status/worker/w2", "status/worker/north",
        "status/gateway/web", "status/recorder/tape",
        "load/main/w1", "load/main/w2", "load/other/w2",
        "ring/gate/alice", "ring/gate/olga", "ring/yard/olga", "ring/gate/web", "ring/invented/olga",
        "pictures/gate/alice", "pictures/gate/olga", "pictures/yard/olga",
        "erase/gate/alice", "erase/gate/olga", "erase/yard/olga", "erase/gate/web",
        "events/alice/gate/r1", "events/olga/gate/r1", "events/olga/yard/r1",
        "clip/olga/gate/r1", "clip/olga/yard/r1", "clip/web/gate/r1",
        "picture/olga/gate/r1", "picture/olga/yard/r1", "picture/alice/gate/r1", "picture/tape/gate/r1",
    )
]  # fmt: skip
OUTSIDE = [
    "$CONTROL/dynamic-security/v1", "lb/v1/open/main/gate", "lb/v1/ask/gate", "lb/v2/nothing/north",
    "lb/v2/ring/alice", "lb/v2", "elsewhere",
    "homeassistant/device/latentbus-gate/config", "homeassistant/device/latentbus-gate/availability",
    "homeassistant/device/latentbus-gate/car/state", "homeassistant/status", "homeassistant/light/lamp/config",
]  # fmt: skip
SEEN = ("lb/", "homeassistant/")
"""How topics begin whose messages are looked at."""
SEAT = "$share/main/lb/v2/open/main/+"
OTHER_SEAT = "$share/other/lb/v2/open/other/+"
FAMILY_FILTERS = [f"lb/v2/{family}/{'/'.join('+' for _ in route.levels)}" for family, route in ROUTES.items()]
WIDE_FILTERS = [
    "#", "+/+/+/+/+", "lb/#", "lb/v2/#", "lb/v2/+/gate", "lb/+/open/main/gate", "lb/v2/open/#", "lb/v2/open/main/+",
    "lb/v2/chunk/#", "lb/v2/chunk/w1/+", "lb/v2/key/#", "lb/v2/key/main/+", "lb/v2/key/other/+",
    "lb/v2/answer/#", "lb/v2/reply/alice/+/+", "lb/v2/reply/web/#", "lb/v2/ask/gate/+", "lb/v2/ask/yard/+",
    "lb/v2/ask/+/alice", "lb/v2/question/north/+", "lb/v2/question/south/+", "lb/v2/question/#",
    "lb/v2/status/worker/+", "lb/v2/status/edge/+", "lb/v2/load/main/+",
    "lb/v2/ring/gate/+", "lb/v2/ring/yard/+", "lb/v2/pictures/gate/+", "lb/v2/erase/gate/+", "lb/v2/picture/#",
    "lb/v2/picture/olga/+/+", "lb/v2/clip/olga/#", "lb/v2/events/olga/+/+",
    SEAT, OTHER_SEAT, "$share/thief/lb/v2/open/main/+", "$share/main/lb/v2/open/main/gate",
    "$share/main/lb/v2/open/+/+", "$share/main/lb/v2/#", "$share/main/#", "$share/w1/lb/v2/chunk/w1/+",
    "homeassistant/#", "homeassistant/+/+/config", "homeassistant/device/+/config", "homeassistant/device/+/+/state",
    "lb/v2/status/gateway/+", "$share/x/lb/v2/answer/+",
    "$CONTROL/dynamic-security/v1/response", "$CONTROL/#", "$SYS/#",
]  # fmt: skip


@dataclass(frozen=True)
class Allowed:
    """What a device may do, below ``lb/v2/`` unless it begins with ``$``."""

    publish: str = ""
    read: str = ""
    """Topics that it may subscribe to one by one and then gets."""
    filters: str = ""
    """Filters with wildcards that it may subscribe to."""
    through_share: str = ""
    """Topics that it gets without a subscription of their own."""
    in_vain: str = ""
    """Topics that it may subscribe to and never gets anything of."""


def below_root(words: str) -> set[str]:
    return {word if word.startswith(("$", "lb", "homeassistant")) else f"lb/v2/{word}" for word in words.split()}


STATUSES = (
    "status/edge/north status/edge/south status/worker/w1 status/worker/w2 status/worker/north status/gateway/web "
    "status/recorder/tape"
)
ASKS_AT_GATE = "ask/gate/alice ask/gate/guard ask/gate/web ask/gate/olga ask/gate/screen ask/gate/north"
ASKS_AT_YARD = "ask/yard/alice ask/yard/guard ask/yard/web ask/yard/olga"
RINGS_AT_GATE = (
    "ring/gate/alice ring/gate/olga ring/gate/web pictures/gate/alice pictures/gate/olga erase/gate/alice "
    "erase/gate/olga erase/gate/web"
)
RINGS_AT_YARD = "ring/yard/olga pictures/yard/olga erase/yard/olga"
EVENTS_AT_GATE = (
    "events/alice/gate/r1 events/olga/gate/r1 clip/olga/gate/r1 clip/web/gate/r1 picture/olga/gate/r1 "
    "picture/alice/gate/r1 picture/tape/gate/r1"
)
EVENTS_AT_YARD = "events/olga/yard/r1 clip/olga/yard/r1 picture/olga/yard/r1"
QUESTIONS = "question/north/car question/north/fire question/south/car question/west/car"
CONFIGS = "config/north config/south"
PUBLIC = f"{CONFIGS} answer/gate answer/yard outcome/gate outcome/yard {STATUSES} {QUESTIONS}"
QUESTION_FILTERS = "question/+/+ question/north/+ question/south/+"
ASK_FILTERS = "ask/+/+ ask/gate/+ ask/yard/+ ask/+/alice"
LOADS = "load/main/w1 load/main/w2 load/other/w2"
PUBLIC_FILTERS = (
    f"answer/+ outcome/+ status/+/+ status/worker/+ status/edge/+ status/gateway/+ load/+/+ load/main/+ "
    f"config/+ {QUESTION_FILTERS}"
)
REPLIES_AT_GATE = "reply/alice/gate/q1 reply/guard/gate/q1 reply/web/gate/q1 reply/olga/gate/q1 reply/screen/gate/q1"
REPLIES_AT_YARD = "reply/alice/yard/q1 reply/guard/yard/q1"
RECEIPTS_OF_NORTH = "receipt/olga/north/car receipt/alice/north/car receipt/web/north/car"
FOR_HOME_ASSISTANT = (
    "homeassistant/device/latentbus-gate/config homeassistant/device/latentbus-gate/availability "
    "homeassistant/device/latentbus-gate/car/state"
)
WORKER_STATUSES = "status/worker/w1 status/worker/w2 status/worker/north"
EDGE_STATUSES = "status/edge/north status/edge/south"
LEFT_RETAINED = (
    f"key/main/gate key/main/yard key/other/gate {STATUSES} {LOADS} {CONFIGS} {QUESTIONS} {ASKS_AT_GATE} "
    f"{ASKS_AT_YARD} ask/invented/alice"
)
ALLOWED = {
    "north": Allowed(
        publish=f"open/main/gate chunk/w1/gate chunk/w2/gate key/main/gate outcome/gate question/north/car "
        f"question/north/fire {REPLIES_AT_GATE} {RECEIPTS_OF_NORTH} config/north status/edge/north {EVENTS_AT_GATE}",
        read=f"control/gate answer/gate {ASKS_AT_GATE} question/north/car question/north/fire config/north "
        f"status/edge/north {WORKER_STATUSES} {RINGS_AT_GATE}",
        filters="ask/gate/+ question/north/+ status/worker/+ ring/gate/+ pictures/gate/+ erase/gate/+",
    ),
    "south": Allowed(
        publish=f"open/main/yard chunk/w1/yard key/main/yard outcome/yard question/south/car {REPLIES_AT_YARD} "
        f"receipt/olga/south/car config/south status/edge/south {EVENTS_AT_YARD}",
        read=f"control/yard answer/yard {ASKS_AT_YARD} question/south/car config/south status/edge/south "
        f"{WORKER_STATUSES} {RINGS_AT_YARD}",
        filters="ask/yard/+ question/south/+ status/worker/+ ring/yard/+",
    ),
    "w1": Allowed(
        publish=f"handover/w1 handover/w2 control/gate control/yard answer/gate answer/yard {REPLIES_AT_GATE} "
        f"{REPLIES_AT_YARD} status/worker/w1 load/main/w1",
        read=f"chunk/w1/gate chunk/w1/yard key/main/gate key/main/yard handover/w1 {QUESTIONS} {ASKS_AT_GATE} "
        f"{ASKS_AT_YARD} ask/invented/alice {WORKER_STATUSES} {EDGE_STATUSES} load/main/w1 load/main/w2",
        filters=f"{SEAT} chunk/w1/+ key/main/+ {QUESTION_FILTERS} {ASK_FILTERS} status/worker/+ status/edge/+ "
        "load/main/+",
        through_share="open/main/gate open/main/yard",
    ),
    "w2": Allowed(
        publish=f"handover/w1 handover/w2 control/gate control/yard answer/gate answer/yard {REPLIES_AT_GATE} "
        f"{REPLIES_AT_YARD} status/worker/w2 load/other/w2",
        read=f"chunk/w2/gate key/other/gate handover/w2 {QUESTIONS} {ASKS_AT_GATE} {ASKS_AT_YARD} ask/invented/alice "
        f"{WORKER_STATUSES} {EDGE_STATUSES} load/other/w2",
        filters=f"{OTHER_SEAT} key/other/+ {QUESTION_FILTERS} {ASK_FILTERS} status/worker/+ status/edge/+",
    ),
    "alice": Allowed(
        publish="ask/gate/alice ask/yard/alice",
        read="answer/gate answer/yard outcome/gate outcome/yard reply/alice/gate/q1 reply/alice/yard/q1 "
        "status/edge/north status/edge/south",
        filters="answer/+ outcome/+ reply/alice/+/+ status/edge/+",
    ),
    "guard": Allowed(
        publish="ask/gate/guard",
        read="answer/gate outcome/gate reply/guard/gate/q1 status/edge/north status/edge/south",
        filters="status/edge/+",
    ),
    "screen": Allowed(read=f"{PUBLIC} {LOADS}", filters=PUBLIC_FILTERS),
    "web": Allowed(
        publish=f"ask/gate/web ask/yard/web status/gateway/web {FOR_HOME_ASSISTANT}",
        read=f"{PUBLIC} {LOADS} reply/web/gate/q1 receipt/web/north/car {FOR_HOME_ASSISTANT}",
        filters=f"{PUBLIC_FILTERS} homeassistant/device/+/config homeassistant/device/+/+/state",
    ),
    "house": Allowed(
        publish="homeassistant/status",
        read=f"status/gateway/web homeassistant/status homeassistant/light/lamp/config {FOR_HOME_ASSISTANT}",
        filters="status/gateway/+ homeassistant/# homeassistant/+/+/config homeassistant/device/+/config "
        "homeassistant/device/+/+/state",
    ),
    "olga": Allowed(
        publish=f"ask/gate/olga ask/yard/olga {QUESTIONS} {CONFIGS} ring/gate/olga ring/yard/olga pictures/gate/olga "
        "pictures/yard/olga erase/gate/olga erase/yard/olga",
        read=f"{PUBLIC} {LOADS} reply/olga/gate/q1 receipt/olga/north/car receipt/olga/south/car "
        "events/olga/gate/r1 events/olga/yard/r1 clip/olga/gate/r1 clip/olga/yard/r1 picture/olga/gate/r1 "
        "picture/olga/yard/r1",
        filters=f"{PUBLIC_FILTERS} picture/olga/+/+ events/olga/+/+",
    ),
    "tape": Allowed(
        publish="status/recorder/tape",
        # No pixels: they are the one thing that a log never keeps.
        in_vain="lb/v2 nothing/north picture/olga/gate/r1 picture/olga/yard/r1 picture/alice/gate/r1 "
        "picture/tape/gate/r1",
        read=" ".join(topic for topic in (*TOPICS, "lb/v2/ring/alice") if not topic.startswith("lb/v2/picture/")),
        filters=" ".join([*FAMILY_FILTERS, *(wide for wide in WIDE_FILTERS if wide.startswith("lb/v2/"))]),
    ),
    "admin": Allowed(
        publish=f"$CONTROL/dynamic-security/v1 {LEFT_RETAINED}",
        read=f"$CONTROL/dynamic-security/v1 {LEFT_RETAINED}",
        filters=f"$CONTROL/dynamic-security/v1/response key/+/+ key/main/+ key/other/+ status/+/+ status/worker/+ "
        f"status/edge/+ status/gateway/+ load/+/+ load/main/+ config/+ {QUESTION_FILTERS} {ASK_FILTERS}",
    ),
}


def test_the_table_is_complete() -> None:
    assert set(ALLOWED) == {device.name for device in DEVICES} | {"admin"}
    assert {topic.split("/")[2] for topic in TOPICS} == set(ROUTES)
    known = {*TOPICS, *OUTSIDE, *WIDE_FILTERS, *FAMILY_FILTERS}
    for allowed in ALLOWED.values():
        for words in (
            allowed.publish,
            allowed.read,
            allowed.filters,
            allowed.through_share,
            allowed.in_vain,
        ):
            assert below_root(words) <= known


def test_every_forbidden_pair_is_refused_and_every_allowed_one_works(
    secured: LocalBroker, settled_fleet: FleetFolder
) -> None:
    with ExitStack() as stack:
        probes = {
            name: stack.enter_context(Probe(secured.port, settled_fleet.device(name))) for name in sorted(ALLOWED)
        }
        filters = [*TOPICS, *OUTSIDE, *FAMILY_FILTERS, *WIDE_FILTERS]
        for name, probe in probes.items():
            allowed = ALLOWED[name]
            assert granted(probe.subscribe(filters)) == (
                below_root(allowed.read) | below_root(allowed.filters) | below_root(allowed.in_vain)
            ), name

        sent: set[tuple[str, str]] = set()
        for name, probe in probes.items():
            taken = granted(probe.publish([*TOPICS, *OUTSIDE]))
            assert taken == below_root(ALLOWED[name].publish), name
            sent |= {(topic, name) for topic in taken if topic.startswith(SEEN)}

        for name, probe in probes.items():
            # The broker answers behind everything that it has sent before, so what has not come now never will.
            probe.subscribe(["fence"])
            readable = below_root(ALLOWED[name].read) | below_root(ALLOWED[name].through_share)
            expected = {(topic, author) for topic, author in sent if topic in readable}
            assert {entry for entry in probe.received if entry[0].startswith(SEEN)} == expected, name
        assert "$CONTROL/dynamic-security/v1/response" in {topic for topic, _ in probes["admin"].received}
