"""What comes to an edge from its peers: what it listens to, and which part takes in a message.

Whatever is wrong with a message ends it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.protocol.ad_hoc_questions import AdHocQuestions
from pipeline.protocol.ask_intake import AskIntake
from pipeline.protocol.config_sync import ConfigSync
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.event_fetches import EventFetches
from pipeline.protocol.frame_store import FrameStore
from pipeline.protocol.load_shedding import LoadShedding
from pipeline.protocol.ports import Contained, Heard, Problem, Received, Subscription
from pipeline.protocol.question_sync import QuestionSync
from pipeline.protocol.site_settings import SiteSettings
from schemas import topics
from schemas.errors import CameraNameError, RemoteError
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Busy,
    EraseEvents,
    FetchEvent,
    FetchPictures,
    ListEvents,
    Message,
    NeedText,
    Question,
    Refine,
    Reject,
    SiteConfig,
    Status,
)
from schemas.topics import Family, Topic


@dataclass(frozen=True, slots=True)
class Readers:
    """The parts of a session that messages are for.

    Attributes:
        frames: frames that are under way.
        store: frames that are kept while there is no link.
        load_shedding: share of the standing frames that is taken.
        ad_hoc: clients' questions.
        intake: takes them in.
        fetches: events that clients ask for.
        config: what operators say about the site.
        sync: standing questions on the broker.
    """

    frames: EdgeFrames
    store: FrameStore
    load_shedding: LoadShedding
    ad_hoc: AdHocQuestions
    intake: AskIntake
    fetches: EventFetches
    config: ConfigSync
    sync: QuestionSync


class EdgeInbox:
    """Messages to one edge process.

    Args:
        site: what it is; its cameras and events do not change.
        boot: random id of this process start.
        readers: parts that messages are for.
        acknowledge: called with the token, if it has one, of each message that is done with.
        say: called with what the shell is to hear of.
    """

    def __init__(
        self,
        site: SiteSettings,
        boot: int,
        readers: Readers,
        acknowledge: Callable[[int | None], None],
        say: Callable[[Heard | Problem | Contained], None],
    ) -> None:
        self._site, self._boot = site, boot
        self._frames, self._store, self._load_shedding = readers.frames, readers.store, readers.load_shedding
        self._ad_hoc, self._intake, self._fetches = readers.ad_hoc, readers.intake, readers.fetches
        self._config, self._sync = readers.config, readers.sync
        self._acknowledge, self._say = acknowledge, say

    def subscriptions(self) -> tuple[Subscription, ...]:
        """What it listens to: QoS 0 wherever a loss costs one repeat, as a PUBACK costs the uplink 78 bytes."""
        cameras, site = self._site.asked_of, self._site
        asks = (Subscription(topics.ask_filter(camera), qos=1) for camera in cameras) if site.takes_asks else ()
        with_events = [camera for camera, settings in site.events.items() if settings.any]
        requests = (
            Subscription(topics.request_filter(family, camera), qos=1)
            for family in (Family.RING, Family.PICTURES, Family.ERASE)
            for camera in with_events
        )
        return (
            *(Subscription(topics.control_topic(camera)) for camera in cameras),
            *(Subscription(topics.answer_topic(camera)) for camera in cameras),
            *asks,
            *requests,
            # At QoS 1, so that a deletion reaches an edge whose link is down for a while; own words come back as well,
            # which tells the order of the broker.
            Subscription(topics.question_filter(site.site), qos=1),
            Subscription(topics.config_topic(site.site), qos=1),
            Subscription(topics.family_filter(Family.STATUS).replace("/+/+", "/worker/+")),
            Subscription(topics.status_topic("edge", site.site)),
        )

    def receive(self, received: Received, now_s: float) -> None:
        """A publish came."""
        try:
            topic, message = received.decode()
            if isinstance(message, Ask):
                # Acknowledged when it is stored, not before.
                self._intake.receive(received, topic.name("camera"), topic.name("client"), message, now_s)
                return
            self._take_in(topic, message, received, now_s)
        except RemoteError as error:
            self._unreadable(topics.label_of(received.topic), received, error, now_s)
        except Exception as error:  # noqa: BLE001 - a bug of ours ends this message, not the site
            self._say(Contained(f"receive/{topics.label_of(received.topic)}", error))
        self._acknowledge(received.token)

    def _take_in(self, topic: Topic, message: Message | None, received: Received, now_s: float) -> None:
        match message:
            case Accept() | Refine() | Busy() | Reject() | NeedText():
                camera = topic.name("camera")
                if isinstance(message, Reject):
                    self._say(Heard(topic, message))
                elif isinstance(message, NeedText):
                    self._ad_hoc.texts_requested(message.digests)
                elif isinstance(message, Busy) and self._store.carries(camera, message.frame):
                    self._store.pause(now_s)
                elif isinstance(message, Busy) and message.frame.boot == self._boot:  # not of another site's frame
                    self._load_shedding.busy(camera, message.frame, now_s)
                self._frames.receive_control(camera, message, now_s)
            case Answer():
                # Raises where it is an answer to another site's frame, from which nothing is to be learned.
                self._frames.receive_answer(message, now_s)
                self._say(Heard(topic, message))
            case ListEvents() | FetchEvent() | FetchPictures() | EraseEvents():
                self._fetches.receive(received, topic, message, now_s)
            case SiteConfig():
                self._config.receive(received, message, now_s)
            case Question():
                self._sync.receive(received, message.question_id, message, now_s)
            case Status(kind="worker"):
                self._say(Heard(topic, message))
                self._frames.receive_worker_status(message, now_s, retained=received.retained)
            case Status(kind="edge") if message.id == self._site.site:
                # A retained one is of the connection before.
                if message.boot != self._boot:
                    self._say(Heard(topic, message))
                elif not received.retained:
                    self._sync.own_status_heard()
                elif not message.online:
                    self._sync.last_will_heard(received)
            case Status(kind="edge"):
                self._say(Heard(topic, message))
                self._other_site(message)
            case None if topic.family is Family.CONFIG:
                self._config.receive(received, None, now_s)
            case None if topic.family is Family.QUESTION:
                self._sync.receive(received, topic.name("question_id"), None, now_s)
            case _:
                pass  # a status that is not for us

    def _unreadable(self, label: str, received: Received, error: RemoteError, now_s: float) -> None:
        try:
            if label == Family.ASK:
                self._intake.unreadable(received, error, now_s)
            elif label == Family.CONFIG:
                self._config.unreadable(received, error, now_s)
            elif label == Family.QUESTION:
                self._sync.unreadable(received, error, now_s)
            else:
                self._say(Problem(label, str(error), error=error, context={"topic": received.topic}))
        except Exception as bug:  # noqa: BLE001 - it ends this message, not the site
            self._say(Contained(f"receive/{label}", bug))

    def _other_site(self, status: Status) -> None:
        """Another site says which cameras it has; on a broker without roles nobody has kept their names apart."""
        for camera in sorted(set(status.cameras) & set(self._site.asked_of)) if status.online else ():
            error = CameraNameError(camera, self._site.site, status.id)
            context = {"camera": camera}
            self._say(Problem("status/camera", str(error), about=f"{status.id}/{camera}", context=context))
