"""Which latents a site has sent, over all of its processes."""

from __future__ import annotations

from collections.abc import Callable

from schemas.messages import Busy, Chunk, Message, Open
from schemas.types import FrameId


class SentLatents:
    """Counts what is sent twice.

    Args:
        on_problem: called when latents of one attempt go to two workers.
    """

    def __init__(self, on_problem: Callable[[str, str], None]) -> None:
        self._sent: set[tuple[str, FrameId, int]] = set()
        self._owners: dict[tuple[str, FrameId, int], str] = {}
        self._on_problem = on_problem

    def gave_up(self, camera: str, message: Busy) -> None:
        """The edge hears *busy*: a worker that owned the attempt has it no more, and another one may claim it."""
        attempt = (camera, message.frame, message.attempt)
        if self._owners.get(attempt) == message.worker:
            del self._owners[attempt]

    def sent(self, topic: str, message: Message) -> int:
        """A message leaves; how many of its latents were sent before."""
        names = topic.split("/")
        match message:
            case Open():
                latents = [(names[4], message.frame, latent) for latent in range(message.stop)]
            case Chunk():
                latents = [(names[4], message.frame, latent) for latent in range(message.start, message.stop)]
                attempt = (message.camera, message.frame, message.attempt)
                owner = self._owners.setdefault(attempt, names[3])
                if owner != names[3]:
                    self._on_problem(f"{message.camera}/{message.frame}", f"{attempt} to {owner} and by {topic}")
            case _:
                return 0
        again = sum(latent in self._sent for latent in latents)
        self._sent.update(latents)
        return again
