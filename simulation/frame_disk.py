"""The stored frames of a simulated site as they are on its medium: they outlive processes, and can go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.protocol.store_requests import (
    Damaged,
    DiskFailed,
    Done,
    DropFrames,
    Found,
    FrameRead,
    PutFrame,
    ReadFrame,
    ReadStored,
    StoredFrame,
    StoreRequest,
    StoreResult,
)
from simulation.content import BYTES_A_LATENT, SimulatedLatent


@dataclass(frozen=True, slots=True)
class _Row:
    stored: StoredFrame
    payload: bytes
    captured_s: float
    power: int


class FrameRows:
    """Does the requests of a session at once.

    Args:
        now_s: clock of the machine, until its power is cut.

    Attributes:
        full: nothing can be written; what is deleted needs no room.
        power: how often it was cut.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.full = False
        self.power = 0
        self._now_s = now_s
        self._rows: dict[int, _Row] = {}
        self._damaged: set[int] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def cut_power(self) -> None:
        """The machine is switched off and on."""
        self.power += 1

    def damage(self, strength: float) -> int | None:
        """A row is overwritten with what means nothing. Returns which one."""
        ids = sorted(self._rows)
        if not ids:
            return None
        entry_id = ids[int(strength * len(ids)) % len(ids)]
        self._damaged.add(entry_id)
        return entry_id

    def perform(self, request: StoreRequest) -> StoreResult:
        """Do what a machine asks for."""
        match request:
            case ReadStored():
                return self._found()
            case PutFrame():
                if self.full:
                    return DiskFailed("database or disk is full", full=True)
                self._drop(request.replaces)
                stored = request.stored
                captured_s = self._now_s() - (stored.age_s or 0.0)
                self._rows[stored.entry_id] = _Row(stored, request.payload, captured_s, self.power)
            case ReadFrame():
                row = self._rows.get(request.entry_id)
                if row is None or request.entry_id in self._damaged:
                    return Damaged("it does not decode")
                return FrameRead(SimulatedLatent(row.payload[1:BYTES_A_LATENT]), self._age_s(row))
            case DropFrames():
                self._drop(request.entry_ids)
        return Done()

    def _found(self) -> Found:
        damaged = self._damaged & self._rows.keys()
        self._drop(tuple(damaged))
        rows = [self._rows[entry_id] for entry_id in sorted(self._rows)]
        return Found(tuple(replace(row.stored, age_s=self._age_s(row)) for row in rows), len(damaged))

    def _age_s(self, row: _Row) -> float | None:
        return self._now_s() - row.captured_s if row.power == self.power else None

    def _drop(self, entry_ids: tuple[int, ...]) -> None:
        for entry_id in entry_ids:
            self._rows.pop(entry_id, None)
            self._damaged.discard(entry_id)
