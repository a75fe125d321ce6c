"""A secured fleet on this machine: broker, two sites, two workers, and a certificate for everybody who plays a part."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from broker_config.devices import Device, DeviceKind
from broker_config.fleet_folder import FleetFolder
from broker_config.secured import secured_broker
from latentbus.fleet.launcher import Launcher
from latentbus.fleet.process import FleetProcess, NotReadyError, ProcessEndedError
from latentbus.fleet.settings import EVERY_FRAME, edge_node, worker_node, write_patient_codec
from latentbus.fleet.usage import resident_bytes
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.spec import load_codec_spec
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings, load_settings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.containment import CONTAINED_EVENT
from pipeline.scenes.video import write_clip
from schemas.errors import LocalError
from schemas.types import AnswerType

POOL: Final = "main"
CAMERAS: Final[dict[str, tuple[str, ...]]] = {"north": ("gate", "dock"), "south": ("yard",)}
"""Cameras by site."""
WORKERS: Final = ("w1", "w2")
BYSTANDERS: Final = ("alice", "bob")
LATECOMER: Final = "carol"
"""A bystander that connects only when others hold many connections."""
OPERATOR: Final = "olga"
OBSERVER: Final = "screen"
MALLORY: Final = "mallory"
"""A client with a certificate that may ask every camera."""
TRUDY: Final = "trudy"
"""Another one like it: whose budget is used up cannot be told anything."""
STOLEN_EDGE: Final = "west"
"""A site whose certificate was stolen; no process of it runs."""
STOLEN_CAMERA: Final = "pier"
STOLEN_WORKER: Final = "w9"

UPLINK_KBPS: Final = 64.0
INTERVAL_S: Final = 2.0
QUESTIONS: Final[dict[str, dict[str, QuestionSettings]]] = {
    # One id, two texts: each site has its own.
    "north": {
        "car": QuestionSettings(text="Is there a car?", answer_type=AnswerType.YES_NO),
        "people": QuestionSettings(text="Is there a person?", answer_type=AnswerType.YES_NO),
    },
    "south": {"car": QuestionSettings(text="How many cars are there?", answer_type=AnswerType.COUNT)},
}
"""Standing questions by site; every camera of a site is asked all of them."""
_FPS: Final = 5.0
_SCENE_SEEDS: Final = {"gate": 11, "dock": 12, "yard": 13}

DEVICES: Final = (
    *(Device(name=site, kind=DeviceKind.EDGE, pool=POOL, cameras=cameras) for site, cameras in CAMERAS.items()),
    *(Device(name=worker, kind=DeviceKind.WORKER, pool=POOL) for worker in (*WORKERS, STOLEN_WORKER)),
    Device(name=STOLEN_EDGE, kind=DeviceKind.EDGE, pool=POOL, cameras=(STOLEN_CAMERA,)),
    *(Device(name=client, kind=DeviceKind.CLIENT) for client in (*BYSTANDERS, LATECOMER, MALLORY, TRUDY)),
    Device(name=OPERATOR, kind=DeviceKind.OPERATOR),
    Device(name=OBSERVER, kind=DeviceKind.DASHBOARD),
)


class AttackSetupError(LocalError):
    """The fleet of a run did not come up, or a question has no steady answer."""


def bugs_in(log: str) -> list[str]:
    """Kinds of the bugs that a process contained, as its log in lines of JSON has them, each once."""
    return [json.loads(line)["kind"] for line in log.splitlines() if line.startswith("{") and CONTAINED_EVENT in line]


class SecuredFleet:
    """Everything that is attacked. An async context manager: nothing of it is left behind.

    Args:
        run_dir: an empty folder for certificates, settings and logs.

    Attributes:
        folder: the fleet's certificates.
        broker: the running broker.
        fingerprint: first 4 bytes of its codec's.
    """

    def __init__(self, run_dir: Path) -> None:
        self.folder = FleetFolder.create(run_dir / "fleet", ["127.0.0.1"])
        for device in DEVICES:
            self.folder.add(device)
        self.broker = secured_broker(self.folder.broker, directory=run_dir / "broker")
        self._run_dir = run_dir
        self._codec = write_patient_codec(bundled_codec_dir(), run_dir / "codec")
        self.fingerprint = load_codec_spec(self._codec).fingerprint4
        self._launcher = Launcher(run_dir)
        self._told: set[tuple[str, str]] = set()

    async def __aenter__(self) -> Self:
        """Start the broker; processes start with :meth:`start`."""
        await self._launcher.__aenter__()
        try:
            await self._launcher.start_broker(self.broker)
        except BaseException:
            await self._launcher.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill what still runs."""
        await self._launcher.__aexit__()

    def broker_settings(self, device: str) -> BrokerSettings:
        """How a device reaches the broker, with its certificate."""
        broker = load_settings(self.folder.device(device) / "settings.yaml").broker
        return broker.model_copy(update={"port": self.broker.port})

    async def start(self) -> None:
        """Start every process of the fleet, and wait until all are ready.

        Raises:
            NotReadyError: one was not in time.
            ProcessEndedError: one ended instead.
        """
        for name in (*WORKERS, *CAMERAS):
            await self._start(name)
        await self._launcher.wait_ready()

    def new_bugs(self) -> list[str]:
        """Bugs that processes contained and that no earlier call returned, as ``w1: receive/open/ValueError``."""
        found = {(name, kind) for name, process in self._launcher.processes.items() for kind in bugs_in(process.log())}
        new = found - self._told
        self._told |= new
        return [f"{name}: {kind}" for name, kind in sorted(new)]

    async def restart(self, name: str) -> int:
        """SIGTERM a process, start it again, and wait until it is ready.

        Returns:
            Its exit status.
        """
        status = await self._launcher.processes[name].drain()
        await (await self._start(name)).wait_ready()
        return status

    async def revive(self) -> list[FleetProcess]:
        """Start what ended on its own, as a supervisor would; one that ends again is found the next time.

        Returns:
            What ended.
        """
        ended = self._launcher.ended
        started = [await self._start(process.name) for process in ended]
        if not self.broker.running:
            raise AttackSetupError(f"the broker has ended; its log is {self.broker.log_path}")
        if started:
            with contextlib.suppress(NotReadyError, ProcessEndedError):
                await self._launcher.wait_ready(*started)
        return ended

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory by ``broker``, ``edge`` and ``worker``: the largest of each kind."""
        pids: Mapping[str, list[int]] = {
            "broker": [self.broker.pid],
            "edge": [self._launcher.processes[name].pid for name in CAMERAS],
            "worker": [self._launcher.processes[name].pid for name in WORKERS],
        }
        return {kind: max(map(resident_bytes, found)) for kind, found in pids.items()}

    async def _start(self, name: str) -> FleetProcess:
        settings = self._edge_settings(name) if name in CAMERAS else self._worker_settings(name)
        return await self._launcher.start_node(name, settings)

    def _worker_settings(self, name: str) -> LatentbusSettings:
        # One thread each: the processes of a run share one machine.
        worker = WorkerSettings(name=name, pool=POOL, codec=self._codec, threads=1)
        return worker_node(self.broker_settings(name), worker)

    def _edge_settings(self, site: str) -> LatentbusSettings:
        questions = QUESTIONS[site]
        edge = EdgeSettings(
            site=site,
            pool=POOL,
            uplink_kbps=UPLINK_KBPS,
            codec=self._codec,
            change_gate=EVERY_FRAME,
            cameras={
                camera: CameraSettings(
                    source=str(self._scene(camera)), interval_s=INTERVAL_S, questions=tuple(questions)
                )
                for camera in CAMERAS[site]
            },
            questions=questions,
            state_dir=self._run_dir / f"{site}-state",
        )
        return edge_node(self.broker_settings(site), edge)

    def _scene(self, camera: str) -> Path:
        """A clip of one frame: the camera stands still, and nothing in front of it moves."""
        path = self._run_dir / f"{camera}.mp4"
        if not path.exists():
            write_clip(path, seed=_SCENE_SEEDS[camera], duration_s=1 / _FPS, fps=_FPS, questions={}, camera=camera)
        return path
