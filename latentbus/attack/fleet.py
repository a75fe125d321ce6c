"""A secured fleet on this machine: broker, two sites, two workers, and a certificate for everybody who plays a part."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from broker_config.devices import Device, DeviceKind
from broker_config.fleet_folder import FleetFolder
from broker_config.secured import secured_broker
from latentbus.chaos.fleet import write_patient_codec
from latentbus.demo.children import Child, running_child
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.spec import load_codec_spec
from pipeline.containment import CONTAINED_EVENT
from pipeline.scenes.video import write_clip
from pipeline.settings import (
    BrokerSettings,
    CameraSettings,
    EdgeSettings,
    LatentbusSettings,
    LogSettings,
    QuestionSettings,
    WorkerSettings,
    load_settings,
)
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


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that ended during an attack.

    Attributes:
        name: which.
        status: its exit status, negative for a signal.
    """

    name: str
    status: int


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        if Path("/proc/self/status").exists():
            return 0
        command = ["ps", "-o", "rss=", "-p", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        return 1024 * int(done.stdout.strip() or 0)
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


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
        self._starts = 0
        self._run_dir = run_dir
        self._codec = write_patient_codec(bundled_codec_dir(), run_dir / "codec")
        self.fingerprint = load_codec_spec(self._codec).fingerprint4
        self._children: dict[str, tuple[Child, AsyncExitStack]] = {}
        self._stack = AsyncExitStack()
        self._told: set[tuple[str, str]] = set()

    async def __aenter__(self) -> Self:
        """Start the broker; processes start with :meth:`start`."""
        await self._stack.enter_async_context(self.broker)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill what still runs."""
        await asyncio.gather(*(stack.aclose() for _, stack in self._children.values()))
        await self._stack.aclose()

    def broker_settings(self, device: str) -> BrokerSettings:
        """How a device reaches the broker, with its certificate."""
        broker = load_settings(self.folder.device(device) / "settings.yaml").broker
        return broker.model_copy(update={"port": self.broker.port})

    @property
    def statuses(self) -> set[str]:
        """Names of the fleet's processes in their status messages."""
        return {f"worker/{name}" for name in WORKERS} | {f"edge/{name}" for name in CAMERAS}

    async def start(self) -> None:
        """Start every process of the fleet."""
        for name in (*WORKERS, *CAMERAS):
            await self._start(name)

    @property
    def ended(self) -> list[Ended]:
        """Processes that ended on their own."""
        codes = {name: child.process.returncode for name, (child, _) in self._children.items()}
        return [Ended(name, status) for name, status in codes.items() if status is not None]

    def new_bugs(self) -> list[str]:
        """Bugs that processes contained and that no earlier call returned, as ``w1: receive/open/ValueError``."""
        found = {
            (name, kind)
            for name, (child, _) in self._children.items()
            for kind in bugs_in(child.log_path.read_text(errors="replace"))
        }
        new = found - self._told
        self._told |= new
        return [f"{name}: {kind}" for name, kind in sorted(new)]

    async def restart(self, name: str) -> int:
        """SIGTERM a process and start it again.

        Returns:
            Its exit status.
        """
        child, stack = self._children.pop(name)
        status = await child.drain()
        await stack.aclose()
        await self._start(name)
        return status

    async def revive(self) -> list[Ended]:
        """Start what ended on its own, as a supervisor would.

        Returns:
            What ended.
        """
        ended = self.ended
        for one in ended:
            _, stack = self._children.pop(one.name)
            await stack.aclose()
            await self._start(one.name)
        if not self.broker.running:
            raise AttackSetupError(f"the broker has ended; its log is {self.broker.log_path}")
        return ended

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory by ``broker``, ``edge`` and ``worker``: the largest of each kind."""
        pids: Mapping[str, list[int]] = {
            "broker": [self.broker.pid],
            "edge": [self._pid(name) for name in CAMERAS],
            "worker": [self._pid(name) for name in WORKERS],
        }
        return {kind: max(map(rss_bytes, found)) for kind, found in pids.items()}

    def log(self, name: str) -> str:
        """End of the log of a process, for an error."""
        return str(self._children[name][0].error())

    def _pid(self, name: str) -> int:
        return self._children[name][0].process.pid

    async def _start(self, name: str) -> None:
        settings = self._edge_settings(name) if name in CAMERAS else self._worker_settings(name)
        stack = AsyncExitStack()
        self._starts += 1
        run_name = f"{name}-{self._starts}"
        role = "edge" if name in CAMERAS else "worker"
        child = await stack.enter_async_context(running_child(run_name, role, settings, self._run_dir))
        self._children[name] = (child, stack)

    def _worker_settings(self, name: str) -> LatentbusSettings:
        # One thread each: the processes of a run share one machine.
        worker = WorkerSettings(name=name, pool=POOL, codec=self._codec, threads=1)
        return LatentbusSettings(broker=self.broker_settings(name), worker=worker, log=LogSettings(json_lines=True))

    def _edge_settings(self, site: str) -> LatentbusSettings:
        questions = QUESTIONS[site]
        edge = EdgeSettings(
            site=site,
            pool=POOL,
            uplink_kbps=UPLINK_KBPS,
            codec=self._codec,
            cameras={
                camera: CameraSettings(
                    source=str(self._scene(camera)), interval_s=INTERVAL_S, questions=tuple(questions)
                )
                for camera in CAMERAS[site]
            },
            questions=questions,
            state_dir=self._run_dir / f"{site}-state",
        )
        return LatentbusSettings(broker=self.broker_settings(site), edge=edge, log=LogSettings(json_lines=True))

    def _scene(self, camera: str) -> Path:
        """A clip of one frame: the camera stands still, and nothing in front of it moves."""
        path = self._run_dir / f"{camera}.mp4"
        if not path.exists():
            write_clip(path, seed=_SCENE_SEEDS[camera], duration_s=1 / _FPS, fps=_FPS, questions={}, camera=camera)
        return path
