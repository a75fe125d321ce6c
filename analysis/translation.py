"""What a logged publish says in the messages of today, whichever wire version it was written in.

Version 1 named no owners and carried no digests. A site is the one whose edge said that it has the camera, a client the
one whose reply topic the ask named; what the log does not say is :data:`UNKNOWN`, a missing digest is all zeros.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgpack

from analysis.version_one import ROOT, OldPublish, is_version_one, read_version_one
from pipeline.recording.message import LoggedMessage
from schemas import topics, wire
from schemas.errors import WireError
from schemas.identity import DIGEST_BYTES, QuestionContent, ad_hoc_query_id, owner_of, standing_query_id
from schemas.messages import SCHEMA_VERSION, Ask, Message, Question, Status
from schemas.topics import Family, Topic

UNKNOWN: Final = "unknown"
"""Site or client that a log of version 1 does not name."""
_NO_DIGEST: Final = bytes(DIGEST_BYTES)
_REF_FIELDS: Final = (2, 3)


class LogDecoder:
    """Decodes the publishes of one log, in their order; it remembers what those of version 1 leave unsaid.

    Attributes:
        pinned: by digest, the questions that opens of version 1 asked, as they stood then.
    """

    def __init__(self) -> None:
        self.pinned: dict[bytes, QuestionContent] = {}
        self._site_of_camera: dict[str, str] = {}
        self._client_of: dict[str, str] = {}
        self._contents: dict[str, QuestionContent] = {}

    def decode(self, logged: LoggedMessage) -> tuple[Topic, Message | None]:
        """The topic and message of a publish, as :func:`schemas.wire.decode_publish` gives them.

        Raises:
            TopicError: the topic is none of ours, or names what the payload contradicts.
            WireError: the payload is no message of that topic.
        """
        if not is_version_one(logged.topic):
            return wire.decode_publish(logged.topic, logged.payload)
        old = read_version_one(logged.topic, logged.payload)
        if old.family == Family.ASK and (client := _client_of_reply(logged)) != UNKNOWN:
            self._client_of.setdefault(str(old.fields.get("query_id")), client)
        if old.family == Family.REPLY:
            self._client_of[old.names["query_id"]] = old.names["client"]
        topic, message = wire.decode_publish(self._topic(old), b"" if old.kind is None else self._payload(old))
        self._learn(topic, message)
        return topic, message

    def _learn(self, topic: Topic, message: Message | None) -> None:
        match message:
            case Status(kind="edge"):
                self._site_of_camera.update(dict.fromkeys(message.cameras, message.id))
            case Question():
                self._contents[message.question_id] = message.content()
            case Ask():
                self._contents.setdefault(message.query_id, message.content(topic.name("client")))
            case _:
                pass

    def _topic(self, old: OldPublish) -> str:
        names = list(old.names.values())
        if old.family == Family.QUESTION:
            names.insert(0, UNKNOWN)
        if old.family == Family.ASK:
            names.append(self._client(str(old.fields["query_id"])) if "query_id" in old.fields else UNKNOWN)
        if old.family == Family.REPLY:
            names.insert(1, str(old.fields.get("camera", UNKNOWN)))
        return "/".join((topics.ROOT, old.family, *names))

    def _payload(self, old: OldPublish) -> bytes:
        fields = dict(old.fields)
        camera = old.names.get("camera") or fields.get("camera")
        if isinstance(camera, str):
            match old.kind:
                case "Open" | "Handover":
                    key = {"key": fields.pop("key")} if "key" in fields else {}
                    payload, stop = fields.pop("payload"), fields.pop("stop")
                    refs = self._refs(camera, fields.pop("queries"))
                    fingerprint = fields.pop("fingerprint")
                    fields |= {"site": self._site(camera), "fingerprint": fingerprint, "queries": refs}
                    fields |= {"stop": stop, "payload": payload, **key}
                case "NeedText":
                    fields["question_ids"] = self._digests(camera, fields["question_ids"])
                case "Text":
                    owner = self._owner(camera, fields["question_id"])
                    fields = {"camera": camera, "owner": owner, **fields}
                case "Answer" | "QueryOutcome":
                    fields |= self._identity(camera, fields)
                case _:
                    pass
        if old.number:
            # Tags are the same in both versions: a number is never used again for something else.
            packed: bytes = msgpack.packb([SCHEMA_VERSION, old.number, *fields.values()])
            return packed
        if old.kind == "Question":
            fields["site"] = UNKNOWN
        return json.dumps({"v": SCHEMA_VERSION, **fields}).encode()

    # ---- owners and digests -----------------------------------------------------------------------------------------

    def _site(self, camera: str) -> str:
        return self._site_of_camera.get(camera, UNKNOWN)

    def _client(self, question_id: str) -> str:
        return self._client_of.setdefault(question_id, UNKNOWN)

    def _owner(self, camera: str, question_id: object) -> str:
        client = self._client_of.get(question_id) if isinstance(question_id, str) else None
        return owner_of("site", self._site(camera)) if client is None else owner_of("client", client)

    def _identity(self, camera: str, fields: dict[str, Any]) -> dict[str, str]:
        """Owner and key of a query: then an ad-hoc question had its own id for the key."""
        query_id, question_id = fields.get("query_id"), fields.get("question_id")
        if not isinstance(query_id, str) or not isinstance(question_id, str):
            raise WireError("query", "query_id and question_id are no texts")
        if query_id != question_id:
            key = standing_query_id(camera, fields["frame"], question_id)
            if query_id != key:
                raise WireError("query", "query_id is not that of its camera, frame and question")
            return {"owner": owner_of("site", self._site(camera)), "query_id": key}
        client = self._client(question_id)
        return {"owner": owner_of("client", client), "query_id": ad_hoc_query_id(camera, client, question_id)}

    def _refs(self, camera: str, refs: object) -> list[list[Any]]:
        found: list[list[Any]] = []
        for ref in refs if isinstance(refs, tuple) else ():
            if not isinstance(ref, tuple) or len(ref) not in _REF_FIELDS or not isinstance(ref[0], str):
                raise WireError("Open", "queries: not a question id and its remaining time")
            question_id, remaining_ms, *ad_hoc = ref
            client = self._client(question_id) if ad_hoc == [True] else None
            found.append([question_id, remaining_ms, self._digest(camera, question_id), client])
        return found

    def _digests(self, camera: str, question_ids: object) -> list[bytes]:
        if not isinstance(question_ids, tuple) or not all(isinstance(name, str) for name in question_ids):
            raise WireError("NeedText", "question_ids: not an array of texts")
        return [self._digest(camera, name) for name in question_ids]

    def _digest(self, camera: str, question_id: str) -> bytes:
        known = self._contents.get(question_id)
        if known is None:
            return _NO_DIGEST
        owner = self._owner(camera, question_id)
        content = QuestionContent(owner, question_id, known.text, known.answer_type, (), known.risk)
        self.pinned[content.digest] = content
        return content.digest


def _client_of_reply(logged: LoggedMessage) -> str:
    """Who asked, as the reply topic of an ask of version 1 says."""
    reply = (logged.properties.response_topic if logged.properties else None) or ""
    try:
        family, client, query_id = reply.removeprefix(ROOT).strip("/").split("/")
        topic = topics.parse(topics.reply_topic(client, UNKNOWN, query_id))
    except (ValueError, WireError):
        return UNKNOWN
    return topic.name("client") if family == Family.REPLY else UNKNOWN
