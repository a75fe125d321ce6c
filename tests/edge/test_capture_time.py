"""A frame is as old as its source says, wherever that counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edge_nodes.site import Site
from edge_nodes.sources import CapturedFrame
from tests.edge.support import SkippingClock, grey


async def test_deadlines_count_from_when_the_frame_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    asked: list[float] = []

    def take_queries(camera: str, captured_s: float, *, standing: bool) -> list[Any]:
        taken.append(captured_s)
        return ["a question"]

    async def ask(site: Site, captured: CapturedFrame, queries: list[Any], captured_s: float) -> None:
        asked.append(captured_s)

    site: Any = Site.__new__(Site)
    site.clock, site.session = SkippingClock(1000.0), SimpleNamespace(take_queries=take_queries)
    monkeypatch.setattr(Site, "_ask", ask)
    monkeypatch.setattr(Site, "pump", lambda site: None)
    for age_s in (0.0, 4.5):
        await site.take(CapturedFrame("gate", 0, 0.0, grey(1), age_s), standing=True, ring=False)
    assert taken == asked == [1000.0, 995.5]
