"""The price of frames, up to what a message carries and beyond it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from pipeline.codec.wire_bytes import (
    key_frame_wire_bytes,
    open_uplink_bytes,
    open_wire_bytes,
    refine_uplink_bytes,
    refine_wire_bytes,
)
from pipeline.protocol.topic_aliases import TopicAliases
from schemas.limits import MAX_LATENT_PAYLOAD_BYTES
from schemas.wire_cost import known_topic_wire_bytes, publish_property_bytes, publish_wire_bytes

PRICES: list[Callable[[int], int]] = [
    partial(open_uplink_bytes, questions=1),
    partial(open_wire_bytes, questions=64),
    key_frame_wire_bytes,
    refine_wire_bytes,
    refine_uplink_bytes,
]


@pytest.mark.parametrize("price", PRICES, ids=["open up", "open", "key frame", "refine", "refine up"])
def test_code_lengths_beyond_what_a_message_carries_have_a_price_too(price: Callable[[int], int]) -> None:
    largest = price(MAX_LATENT_PAYLOAD_BYTES)
    # A code length is at most a byte above the latents' own.
    assert price(MAX_LATENT_PAYLOAD_BYTES + 1) == largest + 1
    assert 100_000 - MAX_LATENT_PAYLOAD_BYTES <= price(100_000) - largest < 110_000 - MAX_LATENT_PAYLOAD_BYTES
    assert 40 < price(1) < price(1_000) < largest


def test_names_of_topics_are_paid_for_as_the_uplink_pays_for_them() -> None:
    aliases = TopicAliases(10)
    spelled = [aliases.spell("lb/v2/open/main/gate") for _ in range(4)]
    assert spelled[2] == spelled[3]
    name, alias = spelled[3]
    charged = publish_wire_bytes(name, 150, 1, property_bytes=publish_property_bytes(topic_alias=alias))
    assert known_topic_wire_bytes(150, 1) == charged == publish_wire_bytes("lb/v2/open/main/gate", 150, 1) - 17
