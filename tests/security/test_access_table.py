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
    f"lb/v1/{below}"
    for below in (
        "open/main/gate", "open/main/yard", "open/other/gate",
        "chunk/w1/gate", "chunk/w1/yard", "chunk/w2/gate",
        "key/main/gate", "key/main/yard", "key/other/gate",
        "handover/w1", "handover/w2",
        "control/gate", "control/yard",
        "answer/gate", "answer/yard",
        "outcome/gate", "outcome/yard",
        "question/car", "question/fire",
        "ask/gate", "ask/yard",
        "reply/alice/q1", "reply/guard/q1", "reply/web/q1", "reply/olga/q1", "reply/screen/q1",
        "status/edge/north", "status/edge/south", "status/worker/w1", "status/worker/w2", "status/worker/north",
        "status/gateway/web", "status/recorder/tape",
        "load/main/w1", "load/main/w2", "load/other/w2",
    )
]  # fmt: skip
OUTSIDE = ["$CONTROL/dynamic-security/v1", "lb/v2/open/main/gate", "lb/v1", "elsewhere"]
SEAT = "$share/main/lb/v1/open/main/+"
OTHER_SEAT = "$share/other/lb/v1/open/other/+"
FAMILY_FILTERS = [f"lb/v1/{family}/{'/'.join('+' for _ in route.levels)}" for family, route in ROUTES.items()]
WIDE_FILTERS = [
    "#", "+/+/+/+/+", "lb/#", "lb/v1/#", "lb/v1/+/gate", "lb/+/open/main/gate", "lb/v1/open/#", "lb/v1/open/main/+",
    "lb/v1/chunk/#", "lb/v1/chunk/w1/+", "lb/v1/key/#", "lb/v1/key/main/+", "lb/v1/key/other/+",
    "lb/v1/answer/#", "lb/v1/reply/alice/+", "lb/v1/reply/web/#",
    "lb/v1/status/worker/+", "lb/v1/status/edge/+", "lb/v1/load/main/+",
    SEAT, OTHER_SEAT, "$share/thief/lb/v1/open/main/+", "$share/main/lb/v1/open/main/gate",
    "$share/main/lb/v1/open/+/+", "$share/main/lb/v1/#", "$share/main/#", "$share/w1/lb/v1/chunk/w1/+",
    "$share/x/lb/v1/answer/+", "$CONTROL/dynamic-security/v1/response", "$CONTROL/#", "$SYS/#",
]  # fmt: skip


@dataclass(frozen=True)
class Allowed:
    """What a device may do, below ``lb/v1/`` unless it begins with ``$``."""

    publish: str = ""
    read: str = ""
    """Topics that it may subscribe to one by one and then gets."""
    filters: str = ""
    """Filters with wildcards that it may subscribe to."""
    through_share: str = ""
    """Topics that it gets without a subscription of their own."""


def below_root(words: str) -> set[str]:
    return {word if word.startswith(("$", "lb")) else f"lb/v1/{word}" for word in words.split()}


STATUSES = (
    "status/edge/north status/edge/south status/worker/w1 status/worker/w2 status/worker/north status/gateway/web "
    "status/recorder/tape"
)
PUBLIC = f"answer/gate answer/yard outcome/gate outcome/yard {STATUSES}"
LOADS = "load/main/w1 load/main/w2 load/other/w2"
PUBLIC_FILTERS = "answer/+ outcome/+ status/+/+ status/worker/+ status/edge/+ load/+/+ load/main/+"
REPLIES = "reply/alice/q1 reply/guard/q1 reply/web/q1 reply/olga/q1 reply/screen/q1"
WORKER_STATUSES = "status/worker/w1 status/worker/w2 status/worker/north"
EDGE_STATUSES = "status/edge/north status/edge/south"
ALLOWED = {
    "north": Allowed(
        publish=f"open/main/gate chunk/w1/gate chunk/w2/gate key/main/gate outcome/gate question/car {REPLIES} "
        "status/edge/north",
        read=f"control/gate answer/gate ask/gate question/car status/edge/north {WORKER_STATUSES}",
        filters="status/worker/+",
    ),
    "south": Allowed(
        publish=f"open/main/yard chunk/w1/yard key/main/yard outcome/yard {REPLIES} status/edge/south",
        read=f"control/yard answer/yard ask/yard status/edge/south {WORKER_STATUSES}",
        filters="status/worker/+",
    ),
    "w1": Allowed(
        publish=f"handover/w1 handover/w2 control/gate control/yard answer/gate answer/yard {REPLIES} status/worker/w1 "
        "load/main/w1",
        read="chunk/w1/gate chunk/w1/yard key/main/gate key/main/yard handover/w1 question/car question/fire ask/gate "
        f"ask/yard {WORKER_STATUSES} {EDGE_STATUSES} load/main/w1 load/main/w2",
        filters=f"{SEAT} chunk/w1/+ key/main/+ question/+ ask/+ handover/w1 status/worker/+ status/edge/+ load/main/+",
        through_share="open/main/gate open/main/yard",
    ),
    "w2": Allowed(
        publish=f"handover/w1 handover/w2 control/gate control/yard answer/gate answer/yard {REPLIES} status/worker/w2 "
        "load/other/w2",
        read=f"chunk/w2/gate key/other/gate handover/w2 question/car question/fire ask/gate ask/yard {WORKER_STATUSES} "
        f"{EDGE_STATUSES} load/other/w2",
        filters=f"{OTHER_SEAT} key/other/+ question/+ ask/+ status/worker/+ status/edge/+",
    ),
    "alice": Allowed(
        publish="ask/gate ask/yard",
        read="answer/gate answer/yard outcome/gate outcome/yard reply/alice/q1 status/edge/north status/edge/south",
        filters="answer/+ outcome/+ reply/alice/+ status/edge/+",
    ),
    "guard": Allowed(
        publish="ask/gate",
        read="answer/gate outcome/gate reply/guard/q1 status/edge/north status/edge/south",
        filters="status/edge/+",
    ),
    "screen": Allowed(read=f"{PUBLIC} {LOADS}", filters=PUBLIC_FILTERS),
    "web": Allowed(
        publish="ask/gate ask/yard status/gateway/web",
        read=f"{PUBLIC} {LOADS} reply/web/q1",
        filters=PUBLIC_FILTERS,
    ),
    "olga": Allowed(
        publish="ask/gate ask/yard question/car question/fire",
        read=f"{PUBLIC} {LOADS} reply/olga/q1",
        filters=PUBLIC_FILTERS,
    ),
    "tape": Allowed(
        publish="status/recorder/tape",
        read=" ".join(TOPICS),
        filters=" ".join([*FAMILY_FILTERS, *(wide for wide in WIDE_FILTERS if wide.startswith("lb/v1/")), "lb/v1"]),
    ),
    "admin": Allowed(
        publish="$CONTROL/dynamic-security/v1",
        read="$CONTROL/dynamic-security/v1",
        filters="$CONTROL/dynamic-security/v1/response",
    ),
}


def test_the_table_is_complete() -> None:
    assert set(ALLOWED) == {device.name for device in DEVICES} | {"admin"}
    assert {topic.split("/")[2] for topic in TOPICS} == set(ROUTES)
    known = {*TOPICS, *OUTSIDE, *WIDE_FILTERS, *FAMILY_FILTERS}
    for allowed in ALLOWED.values():
        for words in (allowed.publish, allowed.read, allowed.filters, allowed.through_share):
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
            assert granted(probe.subscribe(filters)) == below_root(allowed.read) | below_root(allowed.filters), name

        sent: set[tuple[str, str]] = set()
        for name, probe in probes.items():
            taken = granted(probe.publish([*TOPICS, *OUTSIDE]))
            assert taken == below_root(ALLOWED[name].publish), name
            sent |= {(topic, name) for topic in taken if topic.startswith("lb/")}

        for name, probe in probes.items():
            # The broker answers behind everything that it has sent before, so what has not come now never will.
            probe.subscribe(["fence"])
            readable = below_root(ALLOWED[name].read) | below_root(ALLOWED[name].through_share)
            expected = {(topic, author) for topic, author in sent if topic in readable}
            assert {entry for entry in probe.received if entry[0].startswith("lb/")} == expected, name
        assert "$CONTROL/dynamic-security/v1/response" in {topic for topic, _ in probes["admin"].received}
