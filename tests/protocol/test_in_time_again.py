"""An open message that was late for some of its questions has time again once those are over."""

from __future__ import annotations

import pytest

from pipeline.protocol.departure_queue import DepartureQueue
from pipeline.protocol.effects import Utility
from tests.protocol.test_departures import FAR_S, RATE_KBPS, always, opens


@pytest.mark.parametrize("newer_frame", [True, False])
def test_an_open_with_a_clients_question_goes_when_its_standing_ones_are_superseded(newer_frame: bool) -> None:
    """It stood behind everything that was in time until nothing else waited: 20 s on a thin uplink."""
    queue = DepartureQueue(RATE_KBPS)
    leave_by_s = 0.5
    opens(queue, "shared", lambda _now_s: Utility(4.0, 100, leave_by_s, FAR_S), camera="gate")
    for number in range(10):
        opens(queue, f"other {number}", always(1.0), camera="yard")
    left = [queue.pop(1.0 + 0.2 * number) for number in range(3)]
    assert [departure.label for departure in left if departure] == ["other 0", "other 1", "other 2"]
    leave_by_s = FAR_S
    if newer_frame:
        opens(queue, "newer", always(1.0), camera="gate", now_s=1.6)
    following = queue.pop(1.6)
    assert following is not None
    assert following.label == "shared"
