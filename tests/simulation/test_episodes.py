"""What the simulator's episodes ask, and what was broken about questions and is found."""

from __future__ import annotations

from collections import defaultdict

import pytest

from schemas.messages import Message, Open, Question
from simulation.draw_plan import draw_plan
from simulation.episode import Episode
from simulation.mutations import MUTATIONS, detect
from simulation.mutations_of_disk import DISK_MUTATIONS
from simulation.mutations_of_questions import QUESTION_MUTATIONS
from simulation.mutations_of_store import STORE_MUTATIONS

QUICK = 60_000


class Inputs:
    """What the messages of some episodes have shown."""

    def __init__(self) -> None:
        self.owners: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self.cameras: defaultdict[str, set[str]] = defaultdict(set)
        self.texts: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self.mixed = self.deadlines = self.shared_ids = self.changed = self.deleted = 0

    def published(self, topic: str, message: Message) -> None:
        match message:
            case Open():
                self._opened(topic.rsplit("/", 1)[1], message)
            case Question():
                self.texts[message.question_id].add((message.site, message.text))
                self.changed += message.set_by == "operator"
            case _:
                self.deleted += type(message).__name__ == "Deleted"

    def _opened(self, camera: str, message: Open) -> None:
        kinds = {ref.ad_hoc for ref in message.queries}
        self.mixed += len(kinds) == 2
        self.deadlines += len({round(ref.remaining_ms, -3) for ref in message.queries}) > 1
        self.shared_ids += len({ref.question_id for ref in message.queries}) < len(message.queries)
        for ref in message.queries:
            self.owners[camera, ref.question_id].add(ref.client or f"site {message.site}")
            if ref.client is not None:
                self.cameras[f"{ref.client}/{ref.question_id}"].add(camera)


def test_episodes_ask_what_clients_sites_and_operators_ask() -> None:
    inputs = Inputs()
    for number in range(30):
        episode = Episode(draw_plan(7_000_000 + number))
        episode.broker.observers.append(inputs.published)
        assert episode.run().violations == []
    assert inputs.mixed > 20, "standing and ad-hoc questions share frames"
    assert inputs.deadlines > 100, "with deadlines of their own"
    assert inputs.shared_ids > 5, "and one id of several owners in one frame"
    clients = [{owner for owner in owners if " " not in owner} for owners in inputs.owners.values()]
    assert sum(len(names) > 1 for names in clients) > 10, "two clients with one id at one camera"
    assert any(" " in "".join(owners) and len(owners) > 1 for owners in inputs.owners.values()), "as a standing one"
    assert sum(len(cameras) > 1 for cameras in inputs.cameras.values()) > 3, "one client with one id at two cameras"
    for question_id in ("q0", "q1", "q2"):
        assert len({site for site, _ in inputs.texts[question_id]}) > 1
        assert len({text for _, text in inputs.texts[question_id]}) > 3, "sites and editions have texts of their own"
    assert inputs.changed > 20
    assert inputs.deleted > 5


@pytest.mark.parametrize("name", [one.name for one in (*QUESTION_MUTATIONS, *DISK_MUTATIONS, *STORE_MUTATIONS)])
def test_the_simulator_finds_what_was_broken_about_questions_and_disks(name: str) -> None:
    (mutation,) = [mutation for mutation in MUTATIONS if mutation.name == name]
    assert detect(mutation, events=QUICK).caught_by is not None
