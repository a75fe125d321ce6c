"""The standing questions of a site: what its settings say, and what operators said on the bus.

Who rules, for each question id (docs/decisions/0019-standing-questions.md):

1. An operator's question that the broker retains, whatever the settings say. It may add a question, change one, move it
   to other cameras of the site, or pause it (no cameras).
2. The settings.

An operator who deletes the retained question takes back what was said on the bus. One that the settings have as well is
paused by it: the edge publishes it with no cameras, so that a restart does not bring it back. Deleting that pause gives
the question back to the settings. The bus says nothing about sources, paths or credentials.

The broker is the store: the edge puts there what it asks, and takes away what it does not. What it receives of a topic
is in the order of the broker, its own words included, so both agree in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.protocol.asking_rules import AskingRules
from pipeline.protocol.effects import AskedQuery
from pipeline.protocol.ports import Notice
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.messages import Question

MAX_STANDING_QUESTIONS: Final = 512
"""Question ids of a site, those of the settings included; an operator's further one is refused."""
MAX_RETAINED: Final = 1_024
"""Question ids that the broker is known to retain; a further one that the site does not ask is refused, and left there
until the next connection."""
MAX_RETAINED_TO_COMPARE: Final = 128
"""Retained questions that a broker surely sends before whatever comes later: half of what may be unacknowledged. With
more of them one that has not come is not taken for deleted."""
MIN_DEADLINE_MS: Final = 100
"""As in the settings."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of what came on a question's topic.

    Attributes:
        accepted: whether it took effect.
        reason: why not, or what it changed.
        ours: the edge's own word, which came back; nobody waits for a receipt.
    """

    accepted: bool
    reason: str
    ours: bool = False


class StandingQuestions:
    """Standing questions by id.

    Args:
        own: questions of the settings, by id.
        asked_of: ids that the settings ask of each camera of the site.
        share: makes of a question what the pool is asked; a part of its risk may be somebody else's. None leaves all
            as they are.
        rules: when a question is due; every slot unless given.

    Attributes:
        operator_questions: questions that an operator's word rules, by id.
        settled: everything that the broker retains has come.
        changes: how often what is asked may have changed.
    """

    def __init__(
        self,
        own: Mapping[str, Question],
        asked_of: Mapping[str, Collection[str]],
        share: Callable[[Question], Question] | None = None,
        rules: AskingRules | None = None,
    ) -> None:
        self._cameras = tuple(asked_of)
        self._rules = rules or AskingRules()
        self._share = share or _as_it_is
        # Published as they are asked, so that workers know their texts.
        self._own = {question_id: self._share(question) for question_id, question in own.items()}
        self._asked_by_settings = asked_of
        self._notices: list[Notice] = []
        self.operator_questions: dict[str, Question] = {}
        self.settled = False
        self.changes = 0
        # What the broker retains, None where it is no question.
        self._retained: dict[str, Question | None] = {}
        # What this edge has published and not read back.
        self._published: dict[str, Question | None] = {}
        # What the broker retained on the connections before, and what nothing was heard of on this one.
        self._unheard: set[str] = set()

    def take_outputs(self) -> list[Notice]:
        """What the log shall say, since the last call, in order."""
        notices, self._notices = self._notices, []
        return notices

    # ---- what is asked ----------------------------------------------------------------------------------------------

    def replace(self, own: Mapping[str, Question], asked_of: Mapping[str, Collection[str]]) -> None:
        """The settings have other questions now, of the same cameras; an operator's go on going before them."""
        self._own = {question_id: self._share(question) for question_id, question in own.items()}
        self._asked_by_settings = asked_of
        self.changes += 1

    def ids(self, camera: str) -> list[str]:
        """What a camera is asked, due or not."""
        return sorted(self._ids(camera))

    @property
    def known(self) -> list[str]:
        """Ids of all questions of the site."""
        return sorted({*self._own, *self.operator_questions})

    def is_due(self, camera: str, now_s: float) -> bool:
        """Whether any standing question of a camera is due at a slot that has come."""
        return bool(self._rules.due(camera, self.ids(camera), now_s))

    def take_due(self, camera: str, captured_s: float) -> list[AskedQuery]:
        """Queries for a frame of a slot: those that are due; see :meth:`asked`."""
        ids = self.ids(camera)
        due = set(self._rules.due(camera, ids, captured_s))
        queries = [query for query in self.asked(camera, captured_s) if query.question_id in due]
        self._rules.taken(camera, due, ids, captured_s)
        return queries

    def asked(self, camera: str, captured_s: float) -> list[AskedQuery]:
        """Queries for a frame that is asked everything, due or not.

        Args:
            camera: its camera.
            captured_s: when the frame was taken; deadlines count from there.
        """
        operator = self.operator_questions
        questions = (
            self._share(operator[question_id]) if question_id in operator else self._own[question_id]
            for question_id in sorted(self._ids(camera))
        )
        return [
            AskedQuery(question.content(), captured_s + question.deadline_ms / 1000)
            for question in list(questions)[:MAX_QUERIES_PER_FRAME]
        ]

    # ---- what the broker has ----------------------------------------------------------------------------------------

    def connected(self) -> None:
        """A connection is made: the broker sends what it retains anew, and may have lost some of it."""
        self.settled = False
        self._unheard |= self._retained.keys()
        self._retained.clear()
        self._published.clear()

    def receive(self, question_id: str, question: Question | None, *, retained: bool = False) -> Verdict:
        """A question as its topic has it; None when it was deleted there.

        Args:
            question_id: from the topic.
            question: what it says.
            retained: the broker had it before this edge subscribed.
        """
        self.changes += 1
        self._unheard.discard(question_id)
        if not retained and question_id in self._published and self._published[question_id] == question:
            del self._published[question_id]
            self._keep(question_id, question)
            return Verdict(True, "", ours=True)
        self._keep(question_id, question)
        if question is None:
            return self._deleted(question_id)
        if question.set_by == "settings":
            # Of the process before this one: it changes nothing, and is replaced if the settings say something else.
            return Verdict(retained, "set_by settings is the edge's own word; leave it out")
        if refusal := self._refusal(question):
            return Verdict(False, refusal)
        if question != self.operator_questions.get(question_id):
            self._notice(
                "info",
                "a standing question was set on the bus",
                question=question_id,
                text=question.text,
                cameras=question.cameras,
                differs_from_settings=question_id in self._own,
            )
            self._rules.begin_anew(question_id)
        self.operator_questions[question_id] = question
        asked_of = [camera for camera in self._cameras if question_id in self._ids(camera)]
        return Verdict(True, f"asked of {', '.join(asked_of)}" if asked_of else "paused: asked of no camera")

    def unreadable(self, question_id: str) -> None:
        """What the topic has is no question."""
        self._unheard.discard(question_id)
        self._note(question_id, None)

    def settle(self, *, remembers: bool = False) -> list[str]:
        """Everything that was retained has come.

        Args:
            remembers: the broker is known to remember everything from the connections before: what it retained then
                and does not retain now was deleted while this edge was away. Else it may have been lost.

        Returns:
            Ids of questions that the broker does not have as they are asked; see :meth:`wanted`.
        """
        self.settled = True
        self.changes += 1
        if remembers and len(self._unheard) + len(self._retained) <= MAX_RETAINED_TO_COMPARE:
            for question_id in sorted(self._unheard):
                self._deleted(question_id)
        self._unheard.clear()
        for camera in self._cameras:
            if left_out := sorted(self._ids(camera))[MAX_QUERIES_PER_FRAME:]:
                self._notice(
                    "warning",
                    "a camera has more standing questions than fit one frame",
                    camera=camera,
                    not_asked=left_out,
                )
        ids = dict.fromkeys((*self._own, *self.operator_questions, *self._retained))
        return [question_id for question_id in ids if self.differs(question_id)]

    def wanted(self, question_id: str) -> Question | None:
        """What the broker shall retain; None for nothing."""
        return self.operator_questions.get(question_id) or self._own.get(question_id)

    def differs(self, question_id: str) -> bool:
        """Whether the broker has something else than :meth:`wanted`."""
        wanted = self.wanted(question_id)
        if question_id in self._retained:
            return self._retained[question_id] != wanted or wanted is None
        return wanted is not None

    def retained(self, question_id: str) -> Question | None:
        """What the broker retains, as far as it is known."""
        return self._retained.get(question_id)

    def overrule(self, question: Question) -> None:
        """The edge publishes this question, whatever operators and settings say, and will read it back."""
        self.changes += 1
        self.operator_questions.pop(question.question_id, None)
        self._published[question.question_id] = question

    def publishes(self, question_id: str) -> Question | None:
        """The edge publishes what is wanted, and will read it back; returns it."""
        wanted = self.wanted(question_id)
        self._published[question_id] = wanted
        return wanted

    def published(self, question_id: str, question: Question | None, *, refused: bool) -> None:
        """The broker has a publish, or will not have it: then it is not tried again until something comes."""
        if refused:
            self._published.pop(question_id, None)
        elif question_id not in self._published:
            return  # it was read back before the broker's word came, and perhaps something else after it
        self._keep(question_id, question)

    # ---- internals --------------------------------------------------------------------------------------------------

    def _keep(self, question_id: str, question: Question | None) -> None:
        if question is None:
            self._retained.pop(question_id, None)
        else:
            self._note(question_id, question)

    def _note(self, question_id: str, question: Question | None) -> None:
        known = question_id in self._retained or self.wanted(question_id) is not None
        if known or len(self._retained) < MAX_RETAINED:
            self._retained[question_id] = question

    def _refusal(self, question: Question) -> str:
        """Why this site cannot ask a question; empty when it can."""
        question_id = question.question_id
        known = self.wanted(question_id) is not None
        if not known and len(self._own.keys() | self.operator_questions.keys()) >= MAX_STANDING_QUESTIONS:
            return f"the site has {MAX_STANDING_QUESTIONS} standing questions"
        unknown = sorted(set(question.cameras or ()) - set(self._cameras))
        if unknown:
            return f"no camera {', '.join(unknown)} at this site; it has {', '.join(self._cameras)}"
        if question.cameras is None and not self._by_settings(question_id):
            return f"the settings ask it of no camera: name some in cameras; the site has {', '.join(self._cameras)}"
        if question.deadline_ms < MIN_DEADLINE_MS:
            return f"a deadline of {question.deadline_ms} ms is shorter than {MIN_DEADLINE_MS} ms"
        full = [
            camera
            for camera in question.cameras or ()
            if len(self._ids(camera) - {question_id}) >= MAX_QUERIES_PER_FRAME
        ]
        return f"camera {full[0]} has {MAX_QUERIES_PER_FRAME} questions already" if full else ""

    def _ids(self, camera: str) -> set[str]:
        by_settings = set(self._asked_by_settings.get(camera, ()))
        for question_id, question in self.operator_questions.items():
            if question.cameras is None:
                continue
            if camera in question.cameras:
                by_settings.add(question_id)
            else:
                by_settings.discard(question_id)
        return by_settings

    def _by_settings(self, question_id: str) -> bool:
        return any(question_id in asked for asked in self._asked_by_settings.values())

    def _deleted(self, question_id: str) -> Verdict:
        was = self.operator_questions.pop(question_id, None)
        own = self._own.get(question_id)
        if own is None:
            if was is not None:
                self._notice(
                    "info", "a standing question was deleted on the bus and is asked no more", question=question_id
                )
            return Verdict(was is not None, "asked no more" if was else "this site has no such question")
        if was is not None and was.cameras == ():
            self._notice(
                "info",
                "a pause was deleted on the bus: a standing question is the settings' again",
                question=question_id,
            )
            return Verdict(True, "the settings rule again")
        self._notice("info", "a standing question was deleted on the bus and is paused", question=question_id)
        self.operator_questions[question_id] = own.model_copy(update={"cameras": (), "set_by": "operator"})
        return Verdict(True, "paused, since the settings have it; delete it once more and they rule again")

    def _notice(self, level: Literal["info", "warning"], event: str, **context: object) -> None:
        self._notices.append(Notice(level, event, context))


def _as_it_is(question: Question) -> Question:
    return question
