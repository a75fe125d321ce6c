"""The bus is tested on both event loops, and on a second broker where that is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from tests import second_broker


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With the second broker: only what meets it, and what it does otherwise is expected to fail."""
    if not second_broker.chosen():
        return
    of_the_bus = [item for item in items if item.path.parent == Path(__file__).parent]
    meeting = [item for item in of_the_bus if "broker" in getattr(item, "fixturenames", ())]
    left_out = [item for item in of_the_bus if item not in meeting]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in meeting:
        assert isinstance(item, pytest.Function)
        callspec = getattr(item, "callspec", None)
        loops = ("asyncio", "uvloop")
        parameters = [] if callspec is None else [name for name in callspec.id.split("-") if name not in loops]
        known = second_broker.difference(item.originalname, "-".join(parameters))
        if known is not None:
            item.add_marker(pytest.mark.xfail(reason=f"it {known.text}", strict=True))
