"""What the statuses of a fleet tell a client: who serves which camera, and why an answer may not come."""

from __future__ import annotations

from schemas.messages import Status


class FleetView:
    """Edges and workers as they last described themselves.

    Attributes:
        workers_are_seen: whether this client may read the status of workers; else nothing is said about them.
    """

    def __init__(self) -> None:
        self.workers_are_seen = False
        self._edges: dict[str, Status] = {}
        self._workers: dict[str, Status] = {}

    def observe(self, status: Status) -> None:
        """A status came."""
        kept = {"edge": self._edges, "worker": self._workers}.get(status.kind)
        if kept is None:
            return
        before = kept.get(status.id)
        if before is not None and not status.online:
            # A last will knows neither cameras nor codec.
            status = before.model_copy(update={"online": False})
        kept[status.id] = status

    @property
    def cameras(self) -> list[str]:
        """Cameras of the edges that are online, sorted."""
        return sorted({camera for edge in self._edges.values() if edge.online for camera in edge.cameras})

    def problem(self, camera: str) -> str | None:
        """Why questions to a camera get no answer, as far as the statuses tell; None where they show nothing wrong."""
        edges = [edge for edge in self._edges.values() if edge.online and camera in edge.cameras]
        if not edges:
            return self._no_edge(camera)
        if len(edges) > 1:
            names = " and ".join(sorted(edge.id for edge in edges))
            return f"edges {names} both serve camera {camera}: give one of the cameras another name"
        return self._no_worker(edges[0]) if self.workers_are_seen else None

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
