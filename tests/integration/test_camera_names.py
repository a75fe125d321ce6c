"""Two sites with one camera name over a real broker: one is served, and every log names the cause and the fix."""

from __future__ import annotations

import pytest
import structlog

from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from schemas.types import Outcome
from tests.edge.running import running
from tests.integration.conftest import Fleet

pytestmark = pytest.mark.broker

FIX = "names of cameras are unique in a fleet, rename one of the two"


def south(fleet: Fleet) -> LatentbusSettings:
    """A site with a camera that the first one has as well, and one of its own."""
    edge = EdgeSettings(
        site="south",
        cameras={
            name: CameraSettings(source=f"test:{seed}", interval_s=0.3, questions=("people",))
            for seed, name in enumerate(("gate", "dock"))
        },
        questions={"people": QuestionSettings(text="Are there people?", deadline_ms=20_000)},
    )
    return LatentbusSettings(broker=fleet.broker, edge=edge)


async def test_the_second_site_is_refused_for_that_camera_alone_and_all_logs_name_the_cause(fleet: Fleet) -> None:
    await fleet.worker("w1")
    with structlog.testing.capture_logs() as logs:
        north = await fleet.edge(interval_s=0.3, cameras=("gate",))
        await fleet.until_answered(2)
        async with running(south(fleet)) as second:

            def ended(camera: str) -> list[Outcome]:
                return [terminal.outcome for terminal in second.watcher.ended if terminal.camera == camera]

            await second.watcher.until(lambda: len(ended("gate")) >= 2 and len(ended("dock")) >= 2)
            assert set(ended("gate")) == {Outcome.FAILED}
            assert {terminal.reason for terminal in second.watcher.ended if terminal.camera == "gate"} == {
                "another site has a camera of this name: camera names are unique in a fleet, rename one of the two"
            }
            dock = [terminal for terminal in second.watcher.ended if terminal.camera == "dock"]
            assert all("another site" not in terminal.reason for terminal in dock)
            assert await second.end() == 0
        await fleet.finish(north)
    told = {
        (line["kind"].partition("/")[0], line["problem"]) for line in logs if line.get("kind", "").endswith("/camera")
    }
    refused = f"site 'south' opens frames of camera 'gate', which site 'north' has: {FIX}"
    assert ("open", refused) in told, "the worker names both sites and the camera"
    assert {("answer", refused), ("control", refused)} & told, "so does the site that is refused"
    heard = f"another site opens frames of camera 'gate', which site 'north' has: {FIX}"
    assert ("control", heard) in told, "and the other one hears of it"
