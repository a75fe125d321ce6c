"""What a client subscribes to: statuses, and the topics of the cameras that it asks or watches."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pipeline.protocol.client_ports import Subscribe
from pipeline.protocol.ports import Delivery, Subscription, Unsubscribe
from schemas import topics
from schemas.errors import StateError
from schemas.topics import Family

MAX_IDLE_CAMERAS: Final = 256
"""Cameras whose topics are still read though nobody asks or watches them."""

EDGES: Final = topics.family_filter(Family.STATUS).replace("/+/+", "/edge/+")
WORKERS: Final = topics.family_filter(Family.STATUS).replace("/+/+", "/worker/+")
"""A client of a secured fleet may read the status of edges alone."""
LOADS: Final = topics.family_filter(Family.LOAD)
QUESTIONS: Final = topics.family_filter(Family.QUESTION)
CONFIGS: Final = topics.family_filter(Family.CONFIG)
_OPTIONAL: Final = frozenset({WORKERS, LOADS, QUESTIONS, CONFIGS})
"""What some clients may not read; they do without."""
_ALL_PUBLIC: Final = (topics.family_filter(Family.ANSWER), topics.family_filter(Family.OUTCOME))


@dataclass(slots=True)
class _Held:
    """A filter that the shell was told of; it is granted when ``token`` is None."""

    token: int | None


class ClientTopics:
    """Filters that are wanted, and those that the broker has granted.

    A worker that started after a question was published does not know its reply topic, so the public topics of a camera
    that is asked are read as well.

    Args:
        client: below whose name the replies come.
        idle_s: a camera's topics are read for so long after the last question to it.
        whole_fleet: loads of workers and texts of standing questions are read as well.
    """

    def __init__(self, client: str, idle_s: float, *, whole_fleet: bool = False) -> None:
        self._client = client
        self._idle_s = idle_s
        self._fleet = (EDGES, WORKERS, LOADS, QUESTIONS, CONFIGS) if whole_fleet else (EDGES, WORKERS)
        self._asked: Counter[str] = Counter()
        self._idle: OrderedDict[str, float] = OrderedDict()
        self._watched: Counter[str | None] = Counter()
        self._held: dict[str, _Held] = {}
        self._by_token: dict[int, str] = {}
        self._leaving: set[str] = set()
        self._refused: set[str] = set()
        self._changed = True

    def asked(self, camera: str) -> None:
        """There is one more question to a camera."""
        self._asked[camera] += 1
        kept = self._idle.pop(camera, None)
        self._changed = self._changed or (kept is None and self._asked[camera] == 1)

    def ended(self, camera: str, now_s: float) -> None:
        """There is one question less to a camera."""
        self._asked[camera] -= 1
        if self._asked[camera] == 0:
            del self._asked[camera]
            self._idle[camera] = now_s + self._idle_s
            if len(self._idle) > MAX_IDLE_CAMERAS:
                self._idle.popitem(last=False)
                self._changed = True

    def watch(self, cameras: Iterable[str | None]) -> None:
        """One more reader of these cameras; None stands for all."""
        self._watched.update(cameras)
        self._changed = True

    def unwatch(self, cameras: Iterable[str | None]) -> None:
        """One reader less of these cameras."""
        for camera in cameras:
            if self._watched[camera] > 1:
                self._watched[camera] -= 1
            else:
                del self._watched[camera]
        self._changed = True

    def watches(self, camera: str) -> bool:
        """Whether somebody watches a camera."""
        return camera in self._watched or None in self._watched

    def may_ask(self, camera: str) -> bool:
        """Whether everything is granted that an answer of a camera can come on."""
        return all(self._granted(entry.filter) for entry in self._of_question(camera))

    @property
    def workers_are_seen(self) -> bool:
        """Whether the status of workers is read."""
        return self._granted(WORKERS)

    def first(self) -> list[Subscription]:
        """What to subscribe to with the connection, granted with it. What may be refused comes afterwards."""
        wanted = [entry for entry in self._wanted() if entry.filter not in _OPTIONAL]
        self._held.update((entry.filter, _Held(None)) for entry in wanted)
        return wanted

    def connected(self) -> None:
        """A new connection: what was refused or lost is tried again."""
        self._refused.clear()
        self._changed = True

    def changes(self, tokens: Iterator[int]) -> list[Subscribe | Unsubscribe]:
        """What to subscribe to and to leave, so that everything that is wanted is held."""
        if not self._changed:
            return []
        self._changed = False
        wanted = {entry.filter: entry for entry in self._wanted()}
        found: list[Subscribe | Unsubscribe] = []
        for topic_filter, entry in wanted.items():
            if topic_filter not in self._held and topic_filter not in self._leaving:
                token = next(tokens)
                self._held[topic_filter] = _Held(token)
                self._by_token[token] = topic_filter
                found.append(Subscribe(entry, token))
        # Afterwards, so that nothing is missed where one filter takes the place of others.
        for topic_filter in [name for name in self._held if name not in wanted]:
            del self._held[topic_filter]
            self._leaving.add(topic_filter)
            found.append(Unsubscribe(topic_filter))
        return found

    def subscribed(self, token: int, delivery: Delivery) -> tuple[list[str], list[str | None]]:
        """What became of a :class:`~pipeline.protocol.client_ports.Subscribe`.

        Returns:
            Cameras whose questions, and cameras whose readers, get nothing, because the broker has refused it.

        Raises:
            StateError: there was none of this token, or it was answered before.
        """
        topic_filter = self._by_token.pop(token, None)
        if topic_filter is None:
            raise StateError(f"subscription {token} has no answer to come")
        held = self._held.get(topic_filter)
        if held is None or held.token != token:
            return [], []  # not wanted any more, or again
        if delivery.arrived:
            held.token = None
            self._changed = self._changed or topic_filter in _ALL_PUBLIC
            return [], []
        del self._held[topic_filter]
        if delivery is not Delivery.REFUSED:
            self._changed = True
            return [], []
        if topic_filter in _OPTIONAL:
            self._refused.add(topic_filter)
            return [], []
        self._changed = True
        unread = [watched for watched in self._watched if topic_filter in _public(watched)]
        for watched in unread:
            del self._watched[watched]
        refused = [camera for camera in (*self._asked, *self._idle) if topic_filter in self._filters_of(camera)]
        for camera in refused:
            self._idle.pop(camera, None)
        return [camera for camera in refused if camera in self._asked], unread

    def unsubscribed(self, topic_filter: str) -> None:
        """A filter was left; only now it may be subscribed to again.

        Raises:
            StateError: it was not being left.
        """
        if topic_filter not in self._leaving:
            raise StateError(f"{topic_filter} is not being left")
        self._leaving.remove(topic_filter)
        self._changed = True

    def forget_idle(self, camera: str) -> None:
        """The topics of a camera cannot be read: they are not kept for another question."""
        self._changed = self._idle.pop(camera, None) is not None or self._changed

    def expire(self, now_s: float) -> None:
        """Leave the cameras that were idle for long enough."""
        while self._idle and next(iter(self._idle.values())) <= now_s:
            self._idle.popitem(last=False)
            self._changed = True

    def next_s(self) -> float | None:
        """When :meth:`expire` is due next."""
        return next(iter(self._idle.values()), None)

    def sizes(self) -> dict[str, int]:
        """Entries of its tables."""
        return {
            "filters": len(self._held),
            "subscribing": len(self._by_token),
            "leaving": len(self._leaving),
            "cameras_asked": len(self._asked),
            "cameras_idle": len(self._idle),
            "cameras_watched": len(self._watched),
        }

    def _granted(self, topic_filter: str) -> bool:
        held = self._held.get(topic_filter)
        return held is not None and held.token is None

    def _filters_of(self, camera: str) -> set[str]:
        return {entry.filter for entry in self._of_question(camera)}

    def _of_question(self, camera: str) -> list[Subscription]:
        covered = None in self._watched and all(map(self._granted, _ALL_PUBLIC))
        public = _ALL_PUBLIC if covered else _public(camera)
        return [Subscription(name, qos=1) for name in (topics.reply_filter(self._client, camera), *public)]

    def _wanted(self) -> list[Subscription]:
        found = {name: Subscription(name) for name in self._fleet if name not in self._refused}
        for camera in (*self._asked, *self._idle):
            found.update((entry.filter, entry) for entry in self._of_question(camera))
        covered = None in self._watched and all(map(self._granted, _ALL_PUBLIC))
        for watched in [None] if covered else list(self._watched):
            found.update((name, Subscription(name, qos=1)) for name in _public(watched))
        return list(found.values())


def _public(camera: str | None) -> tuple[str, str]:
    """Where answers and outcomes of a camera, or of all, can be read by whoever may."""
    return _ALL_PUBLIC if camera is None else (topics.answer_topic(camera), topics.outcome_topic(camera))
