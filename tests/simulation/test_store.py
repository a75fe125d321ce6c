"""Frames that simulated edges store without a link: episodes meet all that can become of them, and break no rule."""

from __future__ import annotations

from collections import Counter

from pipeline.protocol.store_settings import DropReason, StorePolicy
from simulation.draw_plan import draw_plan
from simulation.episode import Episode

EPISODES = range(5_000_000, 5_000_130)
RARE = {DropReason.CODEC_CHANGED, DropReason.CAMERA_GONE, DropReason.DISK_FAILED}
"""What no episode does: edges keep their codec, their cameras, and a disk that is full at worst."""


def test_episodes_meet_all_that_can_become_of_stored_frames() -> None:
    counters: Counter[str] = Counter()
    for seed in EPISODES:
        plan = draw_plan(seed)
        if all(site.store.policy is StorePolicy.OFF for site in plan.sites):
            continue
        report = Episode(plan).run()
        assert report.violations == []
        counters.update(report.counters)
    met = {kind for kind, count in counters.items() if kind.startswith("store_") and count}
    expected = {f"store_dropped_{reason}" for reason in DropReason if reason not in RARE}
    assert expected | {"store_stored", "store_found", "store_forwarded", "store_answered"} <= met


def test_any_answer_takes_the_place_of_one_whose_age_nobody_knows() -> None:
    """Its machine's power was cut; a worker answers about an older frame of an edge that is lost, with a known age."""
    assert Episode(draw_plan(101_000_025)).run().violations == []
