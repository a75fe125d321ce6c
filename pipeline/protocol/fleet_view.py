"""What the statuses of a fleet tell a client: who serves which camera, and why an answer may not come."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from schemas.messages import Question, SiteConfig, Status

MAX_EDGES: Final = 4_096
MAX_WORKERS: Final = 4_096
MAX_QUESTIONS: Final = 16_384


class FleetView:
    """Edges and workers as they last described themselves.

    Attributes:
        workers_are_seen: whether this client may read the status of workers; else nothing is said about them.
        changes: how often something changed.
        questions: standing questions by site and id, for a client that reads them.
        configs: what operators say about each site, for such a client.
    """

    def __init__(self) -> None:
        self.workers_are_seen = False
        self.changes = 0
        self.questions: OrderedDict[tuple[str, str], Question] = OrderedDict()
        self.configs: OrderedDict[str, SiteConfig] = OrderedDict()
        self._edges: OrderedDict[str, Status] = OrderedDict()
        self._workers: OrderedDict[str, Status] = OrderedDict()
        self._serving: dict[str, set[str]] = {}
        self._loads_of: set[str] = set()

    def observe(self, status: Status) -> None:
        """A status came. The last will of an earlier process of that name is ignored."""
        kept = self._kept(status.kind)
        if kept is None:
            return
        before = kept.get(status.id)
        if before is not None and not status.online:
            if before.boot != status.boot:
                return
            # A last will knows neither cameras nor codec.
            status = before.model_copy(update={"online": False})
        self.changes += 1
        self.forget(status.kind, status.id)
        kept[status.id] = status
        if status.kind == "edge" and status.online:
            for camera in status.cameras:
                self._serving.setdefault(camera, set()).add(status.id)
        limit = MAX_EDGES if status.kind == "edge" else MAX_WORKERS
        if len(kept) > limit:
            self.forget(status.kind, next(iter(kept)))

    def observe_load(self, load: Status) -> None:
        """A worker says how many frames it holds and how it is; one whose status is not known is ignored."""
        known = self._workers.get(load.id)
        if known is not None and known.online and known.boot == load.boot:
            self._workers[load.id] = known.model_copy(
                update={"parked": load.parked, "capacity": load.capacity, "conditions": load.conditions}
            )
            self._loads_of.add(load.id)
            self.changes += 1

    def observe_question(self, site: str, question_id: str, question: Question | None) -> None:
        """The text of a standing question came; None where it was deleted."""
        self.changes += 1
        self.questions.pop((site, question_id), None)
        if question is not None:
            self.questions[site, question_id] = question
            if len(self.questions) > MAX_QUESTIONS:
                self.questions.popitem(last=False)

    def observe_config(self, site: str, config: SiteConfig | None) -> None:
        """What operators say about a site came; None where it was deleted."""
        self.changes += 1
        self.configs.pop(site, None)
        if config is not None:
            self.configs[site] = config
            if len(self.configs) > MAX_EDGES:
                self.configs.popitem(last=False)

    def connected(self) -> None:
        """A new connection: the broker says again what is retained, and not what was deleted meanwhile."""
        self.questions.clear()
        self.configs.clear()

    def forget(self, kind: str, process_id: str) -> None:
        """The status of a process was deleted."""
        kept = self._kept(kind)
        known = None if kept is None else kept.pop(process_id, None)
        if kind == "worker":
            self._loads_of.discard(process_id)
        self.changes += known is not None
        if known is None or kind != "edge":
            return
        for camera in known.cameras:
            serving = self._serving.get(camera, set())
            serving.discard(process_id)
            if not serving:
                self._serving.pop(camera, None)

    @property
    def edges(self) -> list[Status]:
        """Sites as they last described themselves, online or not, by name."""
        return sorted(self._edges.values(), key=lambda status: status.id)

    @property
    def workers(self) -> list[Status]:
        """Workers with their latest load, online or not, by name."""
        return sorted(self._workers.values(), key=lambda status: status.id)

    @property
    def cameras(self) -> list[str]:
        """Cameras of the edges that are online, sorted."""
        return sorted(self._serving)

    @property
    def loads_are_known(self) -> bool:
        """Whether every worker that is online has said how many frames it holds."""
        return all(worker.id in self._loads_of for worker in self._workers.values() if worker.online)

    def edge(self, site: str) -> Status | None:
        """A site as it last described itself."""
        return self._edges.get(site)

    def site_of(self, camera: str) -> str | None:
        """The site of a camera, if exactly one that is online serves it; else the last one that did."""
        serving = self._serving.get(camera)
        if serving:
            return min(serving)
        return next((edge.id for edge in self._edges.values() if camera in edge.cameras), None)

    def site_of_query(self, owner: str, camera: str) -> str | None:
        """The site that a query belongs to.

        Args:
            owner: of its question, ``site/{site}`` or ``client/{client}``.
            camera: that is asked.
        """
        kind, _, name = owner.partition("/")
        return name if kind == "site" else self.site_of(camera)

    def serves(self, camera: str) -> bool:
        """Whether an edge that is online serves a camera."""
        return camera in self._serving

    def sizes(self) -> dict[str, int]:
        """Entries of its tables."""
        return {
            "edges": len(self._edges),
            "workers": len(self._workers),
            "standing_questions": len(self.questions),
            "site_configs": len(self.configs),
        }

    def problem(self, camera: str) -> str | None:
        """Why questions to a camera get no answer, as far as the statuses tell; None where they show nothing wrong."""
        edges = sorted(self._serving.get(camera, ()))
        if not edges:
            return self._no_edge(camera)
        if len(edges) > 1:
            return f"edges {' and '.join(edges)} both serve camera {camera}: give one of the cameras another name"
        return self._no_worker(self._edges[edges[0]]) if self.workers_are_seen else None

    def _kept(self, kind: str) -> OrderedDict[str, Status] | None:
        return {"edge": self._edges, "worker": self._workers}.get(kind)

    def _no_edge(self, camera: str) -> str:
        known = ", ".join(self.cameras) or "none"
        lost = sorted(edge.id for edge in self._edges.values() if not edge.online and camera in edge.cameras)
        offline = lost or sorted(edge.id for edge in self._edges.values() if not edge.online)
        text = f"no edge that is online serves camera {camera}; cameras on this broker: {known}"
        return f"{text}; offline: {', '.join(offline)}" if offline else text

    def _no_worker(self, edge: Status) -> str | None:
        pool = [worker for worker in self._workers.values() if worker.online and worker.pool == edge.pool]
        if not pool:
            return (
                f"no worker of pool {edge.pool}, which edge {edge.id} asks, is online: start one with latentbus worker"
            )
        if all(worker.fingerprint != edge.fingerprint for worker in pool):
            theirs = ", ".join(sorted({worker.fingerprint for worker in pool}))
            return (
                f"edge {edge.id} has codec {edge.fingerprint}, the workers of pool {edge.pool} have {theirs}: "
                "deploy the same codec folder on both sides"
            )
        if not any(worker.capacity for worker in pool):
            return f"every worker of pool {edge.pool} is draining: start another one"
        return None
