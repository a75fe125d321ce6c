"""Peers that are allowed on the broker and mean harm: a client under its own name, a worker of the pool.

They say what their roles let them say (docs/security.md): a client asks, with bytes that are no question as well, far
beyond its budget; a worker claims frames that are not its own, asks for latents that do not exist, and turns everything
away. Nothing of that may break a rule that holds for the others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Final

from pipeline.protocol.edge_frame import EdgeFrame
from schemas import topics
from schemas.messages import Accept, Ask, Busy, Message, NeedText, Refine, Reject, RejectReason
from simulation.broker import BrokerModel
from simulation.clock import VirtualClock
from simulation.content import LATENTS
from simulation.edge_actor import EdgeActor
from simulation.questions import question_text

CLIENT: Final = "mallory"
WORKER: Final = "w-mallory"
HOLDS_S: Final = 60.0
"""So long, at most, an edge waits for the hostile worker after its last word about a frame."""
_EVERY_S = 0.05
_NO_QUESTIONS = (
    b"{",
    b"\x93\x02\x03\xff",
    b'{"query_id":"q1","text":7}',
    b'{"v":9,"query_id":"q1","text":"a?"}',
    b'{"query_id":"q1","text":"' + b"a" * 20_000 + b'"}',
)


class Hostile:
    """Both of them.

    Args:
        clock: virtual clock.
        broker: model of the broker.
        edges: edges by site.
    """

    def __init__(self, clock: VirtualClock, broker: BrokerModel, edges: Mapping[str, EdgeActor]) -> None:
        self._clock = clock
        self._broker = broker
        self._edges = edges
        self._asks = 0

    def client(self, site: str, lasts_s: float, strength: float) -> None:
        """Flood a site with questions and with what is none."""
        draw = random.Random(f"{site}/{self._clock.now_s}/{strength}")
        self._repeat(partial(self._ask, self._edges[site], draw), self._clock.now_s + lasts_s)

    def worker(self, site: str, lasts_s: float, strength: float) -> None:
        """Meddle with the frames of a site."""
        draw = random.Random(f"{site}/{self._clock.now_s}/{strength}")
        self._repeat(partial(self._meddle, self._edges[site], draw), self._clock.now_s + lasts_s)

    def _repeat(self, act: partial[None], until_s: float) -> None:
        if self._clock.now_s < until_s:
            self._clock.handled += 1
            act()
            self._clock.after(_EVERY_S, partial(self._repeat, act, until_s))

    def _ask(self, edge: EdgeActor, draw: random.Random) -> None:
        camera = draw.choice(edge.cameras)
        topic = topics.ask_topic(camera, CLIENT)
        if draw.random() < 0.5:
            edge.receive_bytes(topic, draw.choice(_NO_QUESTIONS), None, retained=draw.random() < 0.2)
            return
        self._asks += 1
        name = f"m{self._asks}"
        ask = Ask(query_id=name, text=question_text(CLIENT, name), deadline_ms=draw.choice([500, 3_000]))
        if self._broker.up:
            self._broker.publish(CLIENT, topic, ask, qos=1)

    def _meddle(self, edge: EdgeActor, draw: random.Random) -> None:
        frames = edge.session.frames.undecided() if edge.alive else []
        if not frames or not self._broker.up:
            return
        frame = draw.choice(frames)
        message = self._control_message(frame, draw)
        self._broker.publish(WORKER, topics.control_topic(frame.camera), message, qos=0)

    def _control_message(self, frame: EdgeFrame, draw: random.Random) -> Message:
        about = {"worker": WORKER, "frame": frame.frame, "attempt": max(1, frame.attempt + draw.choice([-1, 0, 0, 1]))}
        start = draw.randrange(LATENTS)
        words: tuple[Message, ...] = (
            Accept.model_validate({**about, "lease_ms": draw.choice([1, 5_000, round(HOLDS_S * 1000)])}),
            Refine.model_validate({**about, "lease_ms": 1_000, "start": start, "stop": start + draw.randint(1, 99)}),
            Busy.model_validate({**about, "retry_after_ms": draw.choice([0, 100, round(HOLDS_S * 1000)])}),
            Reject.model_validate({**about, "reason": RejectReason.FINGERPRINT, "fingerprint": bytes(4)}),
            NeedText.model_validate({**about, "digests": (draw.randbytes(8),)}),
        )
        weights = (4, 4, 2, 1, 4)
        return draw.choices(words, weights)[0]
