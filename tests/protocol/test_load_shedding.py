"""How a site gives way to an overloaded pool, and comes back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.effects import Decision
from pipeline.protocol.load_shedding import LoadShedding, LoadSheddingSettings
from pipeline.protocol.reasons import OVERLOAD
from schemas.types import FrameId, Outcome
from tests.protocol.questions import content

SETTINGS = LoadSheddingSettings(floor=1 / 8, window_s=1.0, growth_hz=0.1, least_results=4)


class Site:
    """One camera whose frames all come to the same end."""

    def __init__(self) -> None:
        self.load_shedding = LoadShedding(SETTINGS)
        self.now_s = 0.0
        self.sequence = 0

    def frame(self, *outcomes: Outcome, busy: bool = False, reason: str = "", ad_hoc: bool = False) -> None:
        """A frame was taken a moment ago, and this is what became of its queries."""
        frame = FrameId(1, self.sequence)
        self.sequence += 1
        self.now_s += 0.25
        self.load_shedding.offered("gate", frame)
        if busy:
            self.load_shedding.busy("gate", frame, self.now_s)
        for outcome in outcomes:
            terminal = Decision("gate", frame, f"q{self.sequence}", content("q", ad_hoc=ad_hoc), outcome, reason)
            self.load_shedding.ended(terminal, self.now_s)

    def taken(self, slots: int) -> list[bool]:
        return [self.load_shedding.takes("gate", self.now_s) for _ in range(slots)]


def test_while_all_goes_well_every_slot_is_taken() -> None:
    site = Site()
    for _ in range(50):
        site.frame(Outcome.ANSWERED, Outcome.ANSWERED)
    assert all(site.taken(100))
    assert site.load_shedding.share == 1.0
    assert not site.load_shedding.skipped.total()


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(Outcome.EXPIRED, ""), (Outcome.SUPERSEDED, ""), (Outcome.DEGRADED, f"{OVERLOAD}: deadline while parked")],
)
def test_what_comes_too_late_sheds_load_down_to_the_floor_and_never_to_silence(outcome: Outcome, reason: str) -> None:
    site = Site()
    for _ in range(200):
        site.frame(outcome, outcome, reason=reason)
    assert site.load_shedding.share == SETTINGS.floor
    assert sum(site.taken(800)) == 100
    assert site.load_shedding.skipped["gate"] == 700


def test_busy_sheds_load_before_anything_has_come_too_late() -> None:
    site = Site()
    for _ in range(8):
        site.frame(busy=True)
    assert site.load_shedding.share < 0.6


@pytest.mark.parametrize(
    ("outcome", "reason", "ad_hoc"),
    [
        (Outcome.DEGRADED, "deadline while waiting", False),
        (Outcome.FAILED, "fingerprint", False),
        (Outcome.EXPIRED, "", True),
    ],
)
def test_what_fewer_frames_would_not_help_does_not_shed_load(outcome: Outcome, reason: str, ad_hoc: bool) -> None:
    site = Site()
    for _ in range(50):
        site.frame(outcome, reason=reason, ad_hoc=ad_hoc)
    assert site.load_shedding.share == 1.0


def test_the_cut_is_in_proportion_to_what_went_wrong() -> None:
    shares = []
    for late in (1, 3):
        site = Site()
        site.now_s = 10.0
        site.taken(1)
        site.frame(*[Outcome.EXPIRED] * late, *[Outcome.ANSWERED] * (9 - late))
        site.now_s += 1.0
        site.frame(Outcome.ANSWERED)
        shares.append(site.load_shedding.share)
    assert shares == pytest.approx([1 - 1 / 20, 1 - 3 / 20])


def test_one_burst_cuts_once_however_late_its_results_come() -> None:
    site = Site()
    frames = [FrameId(1, index) for index in range(40)]
    for frame in frames:
        site.load_shedding.offered("gate", frame)
    for index, frame in enumerate(frames):
        terminal = Decision("gate", frame, f"q{index}", content("q"), Outcome.EXPIRED)
        site.load_shedding.ended(terminal, 10.0 + index)
    assert site.load_shedding.counters["cuts"] == 1
    assert site.load_shedding.share >= 0.5


def test_the_full_rate_comes_back_by_itself() -> None:
    site = Site()
    for _ in range(200):
        site.frame(Outcome.EXPIRED, Outcome.EXPIRED)
    assert site.load_shedding.share == SETTINGS.floor
    needed_s = (1 - SETTINGS.floor) / SETTINGS.growth_hz
    for _ in range(math.ceil(needed_s) + 2):
        site.now_s += 1.0
        site.taken(1)
    assert site.load_shedding.share == 1.0


def test_cameras_leave_out_different_slots() -> None:
    load_shedding = LoadShedding(SETTINGS)
    load_shedding.share = 0.25
    cameras = [f"cam{index}" for index in range(100)]
    for slot in range(8):
        taken = sum(load_shedding.takes(camera, 0.0) for camera in cameras)
        assert 10 <= taken <= 40, f"slot {slot}: all cameras at once would be 100, and then none"


@given(st.lists(st.tuples(st.sampled_from(["slot", "busy", *Outcome]), st.floats(0.0, 5.0)), min_size=1, max_size=200))
def test_whatever_happens_no_camera_is_silent_for_long_and_memory_is_bounded(
    events: list[tuple[str | Outcome, float]],
) -> None:
    load_shedding = LoadShedding(SETTINGS)
    now_s, sequence, silent = 0.0, 0, 0
    for event, after_s in events:
        now_s += after_s
        frame = FrameId(1, max(0, sequence - 1))
        if event == "slot":
            taken = load_shedding.takes("gate", now_s)
            silent = 0 if taken else silent + 1
            if taken:
                load_shedding.offered("gate", FrameId(1, sequence))
                sequence += 1
        elif isinstance(event, Outcome):
            load_shedding.ended(Decision("gate", frame, "q", content("q"), event), now_s)
        else:
            load_shedding.busy("gate", frame, now_s)
        assert SETTINGS.floor <= load_shedding.share <= 1.0
        assert silent < 1 / SETTINGS.floor
    assert len(load_shedding._credit) <= 1
    assert len(load_shedding._since) <= 1
