"""Stages of a long piece of work, each in a folder of its own: done once, skipped as long as its inputs stay the same.

A stage is done when its stamp is there. The stamp holds what it was made from (its settings, and the contents of what
earlier stages wrote) and hashes of what it wrote. A run that is killed leaves a stage without a stamp; the next run
begins that stage anew, and the stage itself goes on from checkpoints in its cache if it has any::

    <stage>/             what a stage wrote
    stamps/<stage>.json  key, hashes, seconds
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pipeline.codec.spec import hash_file
from schemas.errors import ArtifactError, ConfigError
from training.run import Progress, silent

State = Literal["done", "to do", "changed"]
_STAMPS: Final = "stamps"
_LOCK: Final = "lock"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        name: Of its folder.
        what: What it makes, in one line.
        settings: What decides about its result besides the inputs; JSON-ready.
        inputs: Names of the stages whose folders it reads.
        make: Writes its result into an empty folder.
        cpu_hours: Of two cores, roughly; for plans.
    """

    name: str
    what: str
    settings: Mapping[str, Any]
    inputs: tuple[str, ...]
    make: Callable[[Path], None]
    cpu_hours: float


@dataclass(frozen=True, slots=True)
class Planned:
    """What a run would do with a stage.

    Attributes:
        stage: The stage.
        state: `done` is skipped; `changed` was done, with other settings or inputs, or what it wrote has changed.
        hours: What it took, if it is done; otherwise what it takes, roughly.
    """

    stage: Stage
    state: State
    hours: float


class StagedWork:
    """Stages in a folder.

    Args:
        root: The folder; made when the first stage runs.
        stages: In an order in which every stage comes after its inputs.
        progress: Called with a line of text for every stage.
    """

    def __init__(self, root: Path, stages: Sequence[Stage], progress: Progress = silent) -> None:
        self._root, self._stages, self._progress = root, tuple(stages), progress

    def plan(self) -> list[Planned]:
        """What `run` would do. A stage is changed, too, if one of its inputs is not done."""
        planned: list[Planned] = []
        open_stages: set[str] = set()
        for stage in self._stages:
            stamp = self._stamp(stage)
            state: State = "to do"
            if stamp is not None:
                same = open_stages.isdisjoint(stage.inputs) and stamp["key"] == self._key(stage)
                state = "done" if same and stamp["outputs"] == self._hashes(stage) else "changed"
            if state != "done":
                open_stages.add(stage.name)
            hours = stage.cpu_hours if stamp is None or state != "done" else float(stamp["seconds"]) / 3_600
            planned.append(Planned(stage, state, round(hours, 2)))
        return planned

    def run(self) -> dict[str, float]:
        """Do what is not done yet.

        Returns:
            Seconds of each stage that was done now.

        Raises:
            ConfigError: another process works in the same folder.
        """
        spent_s: dict[str, float] = {}
        with self._alone():
            for number, stage in enumerate(self._stages, start=1):
                if self._is_done(stage):
                    self._progress(f"{number} of {len(self._stages)}, {stage.name}: done before")
                    continue
                self._progress(f"{number} of {len(self._stages)}, {stage.name}: {stage.what}")
                spent_s[stage.name] = self._do(stage)
        return spent_s

    def _is_done(self, stage: Stage) -> bool:
        stamp = self._stamp(stage)
        return stamp is not None and stamp["key"] == self._key(stage) and stamp["outputs"] == self._hashes(stage)

    def _do(self, stage: Stage) -> float:
        began = time.monotonic()
        folder, stamp = self._root / stage.name, self._stamp_file(stage)
        # The stamp goes first: a stage that is killed must not look done.
        stamp.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stage.make(folder)
        spent_s = round(time.monotonic() - began, 1)
        content = {"key": self._key(stage), "outputs": self._hashes(stage), "seconds": spent_s}
        stamp.parent.mkdir(exist_ok=True)
        partial = stamp.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(stamp)
        return spent_s

    def _key(self, stage: Stage) -> str:
        """What a stage is made from; differs whenever its result may."""
        made_from = {name: self._outputs_of(name) for name in stage.inputs}
        text = json.dumps({"name": stage.name, "settings": stage.settings, "inputs": made_from}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _outputs_of(self, name: str) -> Any:
        stamp = self._stamp(next(stage for stage in self._stages if stage.name == name))
        return None if stamp is None else stamp["outputs"]

    def _hashes(self, stage: Stage) -> dict[str, str]:
        folder = self._root / stage.name
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hash_file(path) for path in files}

    def _stamp_file(self, stage: Stage) -> Path:
        return self._root / _STAMPS / f"{stage.name}.json"

    def _stamp(self, stage: Stage) -> dict[str, Any] | None:
        path = self._stamp_file(stage)
        try:
            content = dict(json.loads(path.read_bytes()))
            return content if {"key", "outputs", "seconds"} <= set(content) else None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArtifactError(str(path), f"cannot be read: {error.strerror or error}") from None
        except (ValueError, TypeError):
            return None  # damaged: as good as none, the stage is done again

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder against a second process; the system lets go of it whatever becomes of this one."""
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._root / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(str(self._root), "another run works in this folder: wait, or name another") from None
            yield
        finally:
            os.close(descriptor)
