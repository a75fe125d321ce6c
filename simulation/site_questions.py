"""What a simulated edge process asks, and of which frames: its standing questions, its clients', and how it codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, Latent, Terminal
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, QueryOutcome, Question
from schemas.types import FrameId
from simulation.board import SimulatedBoard
from simulation.content import LADDER
from simulation.desk import Desk, Disk
from simulation.edge_books import EdgeBooks
from simulation.encoder import SimulatedEncoder


class SiteQuestions:
    """Questions of one edge process.

    Args:
        session: of the process.
        encoder: codes its frames.
        disk: of its site.
        settings: standing questions of its settings.
        books: of the site, where it is judged.

    Attributes:
        board: standing questions.
        desk: ad-hoc questions.
    """

    def __init__(
        self,
        session: EdgeSession,
        encoder: SimulatedEncoder,
        disk: Disk,
        settings: Iterable[Question],
        books: EdgeBooks | None,
    ) -> None:
        self.board = SimulatedBoard(settings)
        self.desk = Desk(disk)
        self._session = session
        self._encoder = encoder
        self._books = books

    def offer(
        self,
        camera: str,
        queries: Sequence[AskedQuery],
        now_s: float,
        *,
        latent: Latent | None = None,
        base_latents: int = LADDER[0],
    ) -> FrameId:
        """Give the session a frame with its questions."""
        frame, mark = self._encoder.offer(camera, queries, now_s, latent=latent, base_latents=base_latents)
        if self._books is not None:
            self._books.offered(camera, frame, mark, queries, now_s)
        return frame

    def offer_waiting(self, now_s: float) -> None:
        """Take a frame for the ad-hoc questions of each camera that wait for one."""
        for camera in [*self.desk.waiting]:
            self.offer(camera, self.desk.waiting.pop(camera), now_s)

    def how_it_ended(self, camera: str, client: str, ask: Ask) -> Answer | QueryOutcome | None:
        """The terminal of an ad-hoc question that is known already, if it has one."""
        state = self._session.ad_hoc_state(ad_hoc_query_id(camera, client, ask.query_id))
        if isinstance(state, Terminal):
            return state.answer or state.publish
        stored = self.desk.known(camera, client, ask)
        return None if stored is None else stored.terminal
