"""What a worker session remembers beside frames and texts, all bounded: decided queries, key frames, peers, edges."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.protocol.effects import KeyData
from schemas.messages import Answer, Status
from schemas.types import FrameId

SITE_RECENT_S = 60.0
"""Two sites that open frames of one camera within so long have both a camera of that name."""
KNOWN_CAMERAS = 16_384


@dataclass(slots=True)
class CameraSites:
    """Which site opens the frames of each camera: names of cameras are unique in a fleet.

    A site has the cameras whose frames it sends, whatever its retained status says: one that died with its broker may
    be "online" for ever. It has them no more once it says so, or has sent none for :data:`SITE_RECENT_S`.
    """

    _known: OrderedDict[str, tuple[str, float]] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._known)

    def claim(self, camera: str, site: str, now_s: float) -> str | None:
        """A site opens a frame of a camera.

        Returns:
            The other site that has the camera, None if it is this one's.
        """
        known = self._known.get(camera)
        if known is not None and known[0] != site and now_s - known[1] < SITE_RECENT_S:
            return known[0]
        self._known[camera] = (site, now_s)
        self._known.move_to_end(camera)
        if len(self._known) > KNOWN_CAMERAS:
            self._known.popitem(last=False)
        return None

    def release(self, site: str, cameras: Iterable[str]) -> None:
        """A site has these cameras no more."""
        for camera in cameras:
            if self._known.get(camera, ("", 0.0))[0] == site:
                del self._known[camera]


_KEYS_A_CAMERA = 2
"""The latest, and the one before it, which frames may name that were under way when it came."""


@dataclass(slots=True)
class KeyFrames:
    """Key frames of the pool's cameras as they came; those of the cameras that were silent longest are forgotten first.

    Attributes:
        capacity_bytes: payload kept.
        held_bytes: payload that is kept now.
    """

    capacity_bytes: int
    held_bytes: int = 0
    _known: OrderedDict[str, dict[FrameId, KeyData]] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return sum(len(keys) for keys in list(self._known.values()))

    def learn(self, camera: str, frame: FrameId, payload: bytes) -> None:
        """Keep a key frame."""
        known = self._known.pop(camera, {})
        self.held_bytes += len(payload) - sum(len(key.payload) for key in known.values())
        known = {kept: key for kept, key in known.items() if kept != frame}
        for oldest in list(known)[: max(0, len(known) + 1 - _KEYS_A_CAMERA)]:
            del known[oldest]
        self.held_bytes += sum(len(key.payload) for key in known.values())
        known[frame] = KeyData(frame.sequence, payload)
        self._known[camera] = known
        while self.held_bytes > self.capacity_bytes:
            _, dropped = self._known.popitem(last=False)
            self.held_bytes -= sum(len(key.payload) for key in dropped.values())

    def forget(self, camera: str) -> None:
        """The key frames of a camera are of no use."""
        self.held_bytes -= sum(len(key.payload) for key in self._known.pop(camera, {}).values())

    def get(self, camera: str, boot: int, sequence: int) -> KeyData | None:
        """A key frame, if it is here."""
        return self._known.get(camera, {}).get(FrameId(boot, sequence))


@dataclass(slots=True)
class DecidedQueries:
    """Terminal answers by query and text: each is computed once, and repeated to an edge that missed it.

    The text belongs to the key, since a client may ask another question under an id that its edge has forgotten.
    """

    capacity: int
    _answers: OrderedDict[tuple[str, bytes], Answer] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, answer: Answer, digest: bytes) -> None:
        """Keep a terminal answer to the question with this digest."""
        self._answers[answer.query_id, digest] = answer
        if len(self._answers) > self.capacity:
            self._answers.popitem(last=False)

    def get(self, query_id: str, digest: bytes) -> Answer | None:
        """The terminal answer of a query, if it was decided here and is remembered."""
        return self._answers.get((query_id, digest))


KNOWN_EDGES = 4096
CAMERAS_OVER = 16_384


@dataclass(slots=True)
class Edges:
    """Which edge processes are over, from their births and last wills.

    A boot id belongs to one process of one site, whose name its topic proves: what a site says under the boot id of
    another one, which every answer shows, is about nobody. Its frames are orphans once its last will was read, until it
    is back; or once another boot of its site was born.

    Attributes:
        stale_wills: wills of an earlier boot than the one that is known; they say nothing.
    """

    stale_wills: int = 0
    _known: OrderedDict[str, Status] = field(default_factory=OrderedDict)
    _over: OrderedDict[tuple[str, int, str], bool] = field(default_factory=OrderedDict)

    def sizes(self) -> tuple[int, int]:
        """Edges that are known, and cameras of processes that are over."""
        return len(self._known), len(self._over)

    def learn(self, status: Status) -> frozenset[str]:
        """Take a birth or a last will in.

        Returns:
            Cameras that the edge has had and has no more.
        """
        known = self._known.get(status.id)
        before = frozenset(known.cameras if known else ())
        if status.online:
            if known is not None and known.boot != status.boot:
                self._end(known, followed=True)
            for camera in ("", *status.cameras):
                self._over.pop((status.id, status.boot, camera), None)
            self._known[status.id] = status
            self._known.move_to_end(status.id)
            if len(self._known) > KNOWN_EDGES:
                self._known.popitem(last=False)
            return before - frozenset(status.cameras)
        if known is None or known.boot == status.boot:
            # A will names no cameras: it travels with each connection.
            self._end(known or status, followed=False)
            return before
        self.stale_wills += 1
        return frozenset()

    def lost(self, site: str, camera: str, frame: FrameId, *, ad_hoc: bool) -> bool:
        """Whether no edge will say what became of a query.

        Args:
            site: site that opened its frame.
            camera: camera of its frame.
            frame: the frame.
            ad_hoc: asked by a client: the process that followed has it from the disk of the one before.
        """
        followed = self._over.get((site, frame.boot, camera), self._over.get((site, frame.boot, "")))
        return followed is not None and not (followed and ad_hoc)

    def _end(self, status: Status, *, followed: bool) -> None:
        for camera in status.cameras or ("",):
            self._over[status.id, status.boot, camera] = followed
            self._over.move_to_end((status.id, status.boot, camera))
        while len(self._over) > CAMERAS_OVER:
            self._over.popitem(last=False)


KNOWN_PEERS = 1024
LOAD_MAX_AGE_S = 10.0
"""A load that is older says nothing: a broker that was killed publishes no will of a worker that died with it."""


@dataclass(slots=True)
class _Load:
    status: Status
    heard_s: float
    sent: int = 0


@dataclass(slots=True)
class Peers:
    """Loads of the other workers of the pool."""

    own: str
    pool: str
    fingerprint: str
    _loads: OrderedDict[str, _Load] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._loads)

    def learn_status(self, status: Status) -> None:
        """Take a last will in; one of an earlier boot is ignored. A birth says nothing about load."""
        known = self._loads.get(status.id)
        if status.kind == "worker" and not status.online and known is not None and known.status.boot == status.boot:
            del self._loads[status.id]

    def connection_made(self) -> None:
        """Forget the loads: after a restart of the broker a peer may not be back yet, and a hand-over would be lost."""
        self._loads.clear()

    def learn_load(self, status: Status, now_s: float) -> None:
        """Take a load in."""
        if status.id == self.own or status.pool != self.pool or status.fingerprint != self.fingerprint:
            return
        self._loads[status.id] = _Load(status, now_s)
        self._loads.move_to_end(status.id)
        if len(self._loads) > KNOWN_PEERS:
            self._loads.popitem(last=False)

    def less_loaded(self, parked: int, now_s: float) -> str | None:
        """The worker with the fewest parked frames, if that is less than half of ours and it has room.

        What was handed over since a worker's last word counts as parked there: a burst does not all go to one.
        """
        best: tuple[int, str] | None = None
        for name, load in self._loads.items():
            held = load.status.parked + load.sent
            fits = held < load.status.capacity and held * 2 < parked and now_s - load.heard_s <= LOAD_MAX_AGE_S
            if fits and (best is None or (held, name) < best):
                best = (held, name)
        return None if best is None else best[1]

    def note_sent(self, peer: str) -> None:
        """A frame was handed over to a worker."""
        self._loads[peer].sent += 1
