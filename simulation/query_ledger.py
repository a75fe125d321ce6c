"""What was asked of every frame, and whether passes and answers are about just that.

A simulated model repeats what it was asked and which frame it read. So an answer shows whose question it is, and
of which frame it tells, however the texts, the answers or the frames were mixed up on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.protocol.ad_hoc_questions import NO_FRAME_SEQUENCE
from pipeline.protocol.effects import AskedQuery, Decision, InferencePass
from pipeline.protocol.ports import Publish
from schemas import topics
from schemas.identity import QuestionContent
from schemas.messages import Answer, FollowUp, Open, QueryOutcome
from schemas.types import FrameId, Outcome
from simulation.questions import CROWD, CROWD_QUESTION, read_echo

Problem = Callable[[str, str, str], None]
"""Told the rule that was broken, what it is about, and what was seen."""

ANOTHER_TEXT = "another text was asked"
ANOTHER_QUERY = "answer of another query"
COMPUTED_AGAIN = "decided query computed again"


@dataclass(slots=True)
class _Frame:
    mark: str
    questions: dict[str, QuestionContent] = field(default_factory=dict)


class QueryLedger:
    """Questions by the frame that they were asked of, as they were when it was taken.

    Args:
        on_problem: told what is broken.
    """

    def __init__(self, on_problem: Problem) -> None:
        self._on_problem = on_problem
        self._frames: dict[tuple[str, FrameId], _Frame] = {}
        self._decided: set[tuple[str, str]] = set()
        self._excused: set[str] = set()

    def offered(self, camera: str, frame: FrameId, mark: str, queries: Sequence[AskedQuery]) -> None:
        """An edge took a frame and asks this of it."""
        questions = {query.query_id(camera, frame): query.question for query in queries}
        self._frames[camera, frame] = _Frame(mark, questions)

    def asked_again(self, camera: str, frame: FrameId, queries: Sequence[AskedQuery]) -> None:
        """An edge asks more of a frame that it took before."""
        known = self._frames[camera, frame].questions
        known.update({query.query_id(camera, frame): query.question for query in queries})

    def question(self, camera: str, frame: FrameId, query_id: str) -> QuestionContent | None:
        """What a query asked."""
        if camera == CROWD:
            return CROWD_QUESTION
        asked = self._frames.get((camera, frame))
        return None if asked is None else asked.questions.get(query_id)

    def passes_taken(self, worker: str, inference_pass: InferencePass) -> None:
        """A worker's model is asked this."""
        if inference_pass.camera == CROWD:
            return
        for query in inference_pass.queries:
            asked = self.question(inference_pass.camera, inference_pass.frame, query.query_id)
            if query.question != asked:
                was = "nothing" if asked is None else repr(asked.text)
                problem = f"{worker} asks {query.question.text!r} of {query.question.owner}, the frame was asked {was}"
                self._on_problem(ANOTHER_TEXT, query.query_id, problem)

    def replied(self, worker: str, publish: Publish) -> None:
        """A worker says an answer; where to."""
        message = publish.message
        if not isinstance(message, Answer):
            return
        own = {topics.answer_topic(message.camera)}
        if message.ad_hoc:
            client = message.owner.removeprefix("client/")
            own.add(topics.reply_topic(client, message.camera, message.question_id))
        if publish.topic not in own:
            problem = f"{worker} sends it to {publish.topic}"
            self._on_problem("answer sent to somebody else", message.query_id, problem)

    def published(self, message: Answer | QueryOutcome) -> None:
        """The broker accepts an answer or an outcome."""
        if message.camera == CROWD or message.frame.sequence == NO_FRAME_SEQUENCE:
            return  # the latter never met a frame; its edge answers for it
        asked = self._frames.get((message.camera, message.frame))
        question = None if asked is None else asked.questions.get(message.query_id)
        if asked is None or question is None:
            self._on_problem(ANOTHER_QUERY, message.query_id, f"{message.camera}/{message.frame} was not asked it")
        elif (message.owner, message.question_id) != (question.owner, question.question_id):
            named = f"{message.owner}, {message.question_id}"
            self._on_problem(ANOTHER_QUERY, message.query_id, f"it names {named}, not {question.owner}")
        elif isinstance(message, Answer) and message.text:
            self._check_text(message, question, asked.mark)

    def decided(self, site: str, decision: Decision) -> None:
        """An edge takes a query as decided."""
        self._decided.add((site, decision.query_id))
        asked = self.question(decision.camera, decision.frame, decision.query_id)
        if decision.question != asked:
            self._on_problem(ANOTHER_QUERY, decision.query_id, f"{site} decides a question that it never asked so")
        said = decision.answer or decision.publish
        if said is None:
            self._on_problem("no terminal", decision.query_id, f"{site} tells nobody that it has {decision.outcome}")
        elif said.query_id != decision.query_id:
            self._on_problem(ANOTHER_QUERY, decision.query_id, f"{site} decides it by {said.query_id}")

    def forgotten(self, site: str, query_ids: Iterable[str]) -> None:
        """Decisions of an edge that died with its process: their queries are asked again."""
        self._decided -= {(site, query_id) for query_id in query_ids}

    def excuse(self, query_id: str) -> None:
        """A disk has lost this question: asked again, it is another one."""
        self._excused.add(query_id)

    def opened(self, site: str, camera: str, message: Open | FollowUp) -> None:
        """An open message, or a follow-up, leaves an edge."""
        if isinstance(message, Open) and message.attempt > 1 and message.key is not None:
            problem = f"{site} gives it key frame {message.key}, which its worker may lack"
            self._on_problem("opened again given a key frame", f"{camera}/{message.frame}", problem)
        for query_id, ref in zip(message.query_ids(camera), message.queries, strict=True):
            asked = self.question(camera, message.frame, query_id)
            if (site, query_id) in self._decided and query_id not in self._excused:
                self._on_problem(COMPUTED_AGAIN, query_id, f"{site} opens a frame with it once more")
            if asked is None or asked.digest != ref.digest:
                self._on_problem(ANOTHER_TEXT, query_id, f"{site} opens a frame with another digest")

    def _check_text(self, message: Answer, question: QuestionContent, mark: str) -> None:
        said = read_echo(message.text)
        if said is None or (said.text, said.mark) != (question.prompt, mark):
            expected = f"asked {question.prompt!r} of frame {mark}"
            self._on_problem(ANOTHER_QUERY, message.query_id, f"{message.worker}: {message.text!r}, {expected}")
        elif message.outcome is Outcome.ANSWERED and not said.safe:
            self._on_problem("unsafe answer called safe", message.query_id, message.text)
