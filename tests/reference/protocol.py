"""Tables of the protocol: topics, messages, outcomes, limits, errors, times, states, cost."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

from analysis.markdown import table
from pipeline.protocol.edge_frame import EDGE_TRANSITIONS, EdgeStage
from pipeline.protocol.settings import ClientProtocolSettings, EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.worker_frame import WORKER_TRANSITIONS, WorkerStage
from schemas import errors, export, limits, messages, topics, wire
from schemas.errors import LatentbusError, LocalError
from schemas.identity import OWNER_PATTERN, QuestionContent, owner_of
from schemas.messages import (
    BINARY_MESSAGES,
    JSON_MESSAGES,
    Accept,
    Answer,
    BinaryMessage,
    Chunk,
    Message,
    Open,
    QueryRef,
    Refine,
    Text,
)
from schemas.types import NAME_PATTERN, QUERY_ID_PATTERN, TEXT_PATTERN, AnswerType, FrameId, Outcome
from schemas.utc_time import UTC_PATTERN
from schemas.wire_cost import publish_packet_bytes, publish_wire_bytes
from tests.source_names import names_of

Stage = TypeVar("Stage", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)


def code(text: str) -> str:
    """Docstring markup as Markdown."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")


# ---- topics and messages -------------------------------------------------------------------------------------------


def topics_table() -> str:
    """Every topic family: who publishes and who reads, then what it carries."""
    ways = table(
        ("topic", "from", "to", "QoS", "retained"),
        (
            (
                "`" + "/".join((topics.ROOT, family, *(f"{{{level}}}" for level in route.levels))) + "`",
                ", ".join(route.senders),
                ", ".join(route.receivers),
                route.qos,
                "yes" if route.retain else "no",
            )
            for family, route in topics.ROUTES.items()
        ),
    )
    contents = table(
        ("family", "messages", "purpose"),
        (
            (
                f"`{family}`",
                ", ".join(f"[{message.__name__}](#{message.__name__.lower()})" for message in route.messages),
                route.purpose,
            )
            for family, route in topics.ROUTES.items()
        ),
    )
    return f"{ways}\n\n{contents}"


def type_words(schema: Mapping[str, Any]) -> str:
    """The type of a field in words."""
    if "const" in schema:
        return f"{schema['const']}"
    if "anyOf" in schema:
        return " or ".join(type_words(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"]).replace("\\|", "or")
    match schema["type"]:
        case "integer":
            return f"integer {schema['minimum']:,} to {schema['maximum']:,}"
        case "number":
            return f"number {schema['minimum']:g} to {schema['maximum']:g}"
        case "boolean" | "null":
            return str(schema["type"])
        case "string":
            known = {NAME_PATTERN: "name", QUERY_ID_PATTERN: "query id", OWNER_PATTERN: "owner"}
            known[UTC_PATTERN] = "moment of UTC"
            if "pattern" in schema and schema["pattern"] != TEXT_PATTERN:
                return known.get(schema["pattern"], f"text `{schema['pattern']}`")
            low, high = schema.get("minLength", 0), schema["maxLength"]
            unit = "bytes" if schema.get("format") == "binary" else "characters"
            if "pattern" in schema:
                unit += ", not blank"
            return f"{high:,} {unit}" if low == high else f"{low:,} to {high:,} {unit}"
        case "array":
            if isinstance(schema["items"], list):
                return "[" + ", ".join(item["title"] for item in schema["items"]) + "]"
            low, high = schema.get("minItems", 0), schema["maxItems"]
            return f"list of {low} to {high}: {type_words(schema['items'])}"
        case "object" if "patternProperties" in schema:
            ((pattern, values),) = schema["patternProperties"].items()
            named = {NAME_PATTERN: "name"}[pattern]
            return f"object of up to {schema['maxProperties']} entries by {named}: {type_words(values)}"
        case "object":
            fields = (f"`{name}` {type_words(field)}" for name, field in schema["properties"].items())
            return f"object of {', '.join(fields)}"
    raise ValueError(f"no words for {schema}")


def message_table(message: type[Message]) -> str:
    """Fields of one message, in their order on the wire."""
    schema = export.json_schema(message)
    if issubclass(message, BinaryMessage):
        fields = [(item["title"], item) for item in schema["items"][2:]]
    else:
        fields = list(schema["properties"].items())
    rows = []
    for name, field in fields:
        words = type_words(field)
        if "default" in field:
            words += f"; default `{json.dumps(field['default'])}`"
        elif issubclass(message, BinaryMessage) and not message.model_fields[name].is_required():
            words = words.replace("null", "nil")
            words += f"; default {'nil' if message.model_fields[name].default is None else 'empty'}"
        rows.append((f"`{name}`", words, code(field.get("description", ""))))
    return table(("field", "type", "meaning"), rows)


def messages_reference() -> str:
    """Every message with its fields."""
    parts = []
    for message in (*BINARY_MESSAGES, *JSON_MESSAGES):
        kind = (
            f"msgpack, kind {int(message.kind)}: `[{messages.SCHEMA_VERSION}, {int(message.kind)}, "
            + ", ".join(message.model_fields)
            + "]`"
            if issubclass(message, BinaryMessage)
            else "JSON"
        )
        text = code(inspect.cleandoc(message.__doc__ or ""))
        limit = f"at most {message.limit_bytes:,} bytes"
        layout = textwrap.fill(f"{kind}; {limit}.", 119, break_long_words=False, break_on_hyphens=False)
        parts.append(f"### {message.__name__}\n\n{text}\n\n{layout}\n\n{message_table(message)}\n")
    schema = export.json_schema(Open)
    query = next(item for item in schema["items"] if item["title"] == "queries")["items"]["items"]
    rows = [(f"`{item['title']}`", type_words(item), code(item["description"])) for item in query]
    text = code(inspect.cleandoc(QueryRef.__doc__ or ""))
    parts.append(f"### Queries of a frame\n\n{text}\n\n{table(('item', 'type', 'meaning'), rows)}")
    return "\n".join(parts)


def reserved_table() -> str:
    """Kinds and families that later features will take."""
    rows = [(f"message kind {kind}", purpose) for kind, purpose in messages.RESERVED_KINDS.items()]
    return table(("reserved", "for"), rows)


def outcomes_table() -> str:
    """Terminal outcomes and who may say them."""
    said_by = {
        outcome: [
            message.__name__
            for message in (Answer, messages.QueryOutcome)
            if f"'{outcome}'" in repr(export.json_schema(message)["properties"]["outcome"])
        ]
        for outcome in Outcome
    }
    meaning = member_docs(Outcome)
    return table(
        ("outcome", "meaning", "said in"),
        ((f"`{outcome}`", meaning[outcome.name], ", ".join(said_by[outcome])) for outcome in Outcome),
    )


REASONS: Final = {
    "overload": "degraded: the frame waited for the model, since the pool has more work than time",
    "deadline while": "degraded or expired: the deadline came first, in this stage of the frame",
    "not_held": "failed: a question about the past, and the edge does not keep the frame; `age_ms` of the outcome says "
    "how old the oldest kept frame is",
    "edge_lost": "degraded or failed: the edge is gone, so its worker ended the query at the deadline",
    "form: no": "degraded: even the whole latent gave no answer of the form that was asked for",
    "form: the answer has no words": "failed: the answer has no letter and no digit",
    "model": "failed: the model raised an error, or gave no answer or a number that is not finite",
    "internal": "failed: a bug of Latentbus ended the frame; the log of that process has its traceback",
    "no worker answered": "failed: every attempt was met with silence",
    "the pool turned it away": "failed: every attempt was rejected",
    "fingerprint": "failed: the pool decodes another codec than the edge sends",
    "another site has a camera of this name": "failed: camera names must be unique in a fleet",
    "bitstream": "failed: the latents do not decode",
    "same as": "unchanged: the answer to the frame that follows holds on",
    "recording lacks": "failed: a replayed log does not hold the latents that were asked for",
}
"""How reasons of outcomes begin, and what they say; a test finds each of them in the code."""


def reasons_table() -> str:
    """How the reasons of outcomes begin, and why a worker rejects a frame."""
    outcomes = table(
        ("reason begins with", "outcome and meaning"), ((f"`{begin}`", REASONS[begin]) for begin in REASONS)
    )
    meaning = member_docs(messages.RejectReason)
    rejects = table(
        ("number", "a frame is rejected because"),
        (
            (int(reason), f"{reason.name.lower().replace('_', ' ')}: {meaning[reason.name]}")
            for reason in messages.RejectReason
        ),
    )
    return f"{outcomes}\n\n{rejects}"


def member_docs(owner: type) -> dict[str, str]:
    """The docstrings below the members of an enumeration."""
    body = ast.parse(inspect.getsource(owner)).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for member, text in itertools.pairwise(body.body):
        if isinstance(member, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found |= {name: " ".join(str(text.value.value).split()) for name in names_of(member)}
    return found


# ---- limits, errors, times ------------------------------------------------------------------------------------------


def limits_table() -> str:
    """Size limits of the wire with their reasons."""
    source = inspect.getsource(limits)
    rows = re.findall(r"^(\w+): Final = ([\d_]+)\n\"\"\"(.*?)\"\"\"", source, re.DOTALL | re.MULTILINE)
    assert len(rows) == source.count(": Final = ")
    return table(
        ("limit", "value", "reason"),
        ((f"`{name}`", f"{int(value):,}", code(" ".join(reason.split()))) for name, value, reason in rows),
    )


def errors_table() -> str:
    """Every error, whose fault it is, and its label."""
    rows = []
    for _, error in inspect.getmembers(errors, inspect.isclass):
        if error in (LatentbusError, LocalError, errors.RemoteError) or error.__module__ != errors.__name__:
            continue
        fault = "ours" if issubclass(error, LocalError) else "theirs"
        label = f"`{error.reason}`" if hasattr(error, "reason") else ""
        rows.append((fault, f"`{error.__name__}`", label, (error.__doc__ or "").splitlines()[0]))
    return table(("fault", "error", "counter label", "meaning"), sorted(rows))


def times_table() -> str:
    """Times and bounds of the protocol machines."""
    rows = []
    for side, settings in (
        ("edge", EdgeProtocolSettings),
        ("worker", WorkerProtocolSettings),
        ("client", ClientProtocolSettings),
    ):
        meanings = attribute_docs(settings)
        for field in dataclasses.fields(settings):
            default = f"{field.default:,}"
            rows.append((side, f"`{field.name}`", default, code(meanings[field.name])))
    return table(("side", "setting", "default", "meaning"), rows)


def attribute_docs(owner: type) -> dict[str, str]:
    """The ``Attributes:`` of a Google style docstring."""
    _, _, section = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for line in section.splitlines():
        match = re.match(r"^    (\w+): (.*)", line)
        if match:
            found[match[1]] = match[2]
        elif line.strip():
            found[next(reversed(found))] += f" {line.strip()}"
    return found


# ---- state machines -------------------------------------------------------------------------------------------------


def state_diagram(transitions: Mapping[tuple[Stage, Event], Stage], first: Mapping[Stage, str]) -> str:
    """A transition table as a Mermaid state diagram; events between the same two stages share an arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (stage, event), target in transitions.items():
        arrows.setdefault((stage.name, target.name), []).append(event.value)
    lines = ["stateDiagram-v2", *(f"    [*] --> {stage.name}: {label}" for stage, label in first.items())]
    lines += [f"    {stage} --> {target}: {', '.join(events)}" for (stage, target), events in arrows.items()]
    ends = {target.name for target in transitions.values()} - {stage.name for stage, _ in transitions}
    lines += [f"    {stage} --> [*]" for stage in sorted(ends)]
    return "```mermaid\n" + "\n".join(lines) + "\n```"


def stages_table(stages: type[StrEnum]) -> str:
    """What each stage means."""
    meaning = member_docs(stages)
    return table(("stage", "meaning"), ((stage.name, meaning[stage.name]) for stage in stages))


def moves_table(transitions: Mapping[tuple[Stage, Event], Stage]) -> str:
    """Every move that the machine allows; any other one raises."""
    return table(
        ("stage", "event", "next stage"),
        ((stage.name, event.value, target.name) for (stage, event), target in transitions.items()),
    )


def edge_states() -> str:
    """The edge's machine."""
    diagram = state_diagram(EDGE_TRANSITIONS, {EdgeStage.QUEUED: "frame offered"})
    return f"{diagram}\n\n{stages_table(EdgeStage)}\n\n{moves_table(EDGE_TRANSITIONS)}"


def worker_states() -> str:
    """The worker's machine."""
    first = {WorkerStage.PARKED: "open, texts known", WorkerStage.NEED_TEXT: "open, a text unknown"}
    diagram = state_diagram(WORKER_TRANSITIONS, first)
    return f"{diagram}\n\n{stages_table(WorkerStage)}\n\n{moves_table(WORKER_TRANSITIONS)}"


# ---- cost -----------------------------------------------------------------------------------------------------------


def wire_cost_table() -> str:
    """Bytes of typical messages: as encoded, as MQTT packet, and on the wire with TCP/IP and TLS."""
    frame = FrameId(0x1A2B3C4D, 417)
    fingerprint = bytes(4)
    asked = QuestionContent(owner_of("site", "harbour"), "gate-open", "Is the gate open?", AnswerType.YES_NO)
    query = QueryRef(asked.question_id, 9_800, asked.digest)
    control: dict[str, Any] = {"worker": "w-3f2a", "frame": frame, "attempt": 1}
    cases: list[tuple[str, str, Message, str, int]] = []
    for payload_bytes in (40, 160, 1_000):
        opened = Open(
            frame=frame,
            attempt=1,
            site="harbour",
            fingerprint=fingerprint,
            queries=(query,),
            stop=16,
            payload=bytes(payload_bytes),
        )
        cases.append(("up", f"open, 1 question, {payload_bytes:,} bytes of latents", opened, "open/main/gate", 1))
    chunk = Chunk(camera="gate", frame=frame, attempt=1, start=16, stop=32, payload=bytes(160))
    cases += [
        ("up", "chunk, 160 bytes of latents", chunk, "chunk/w-3f2a/gate", 0),
        (
            "up",
            "question text",
            Text(
                camera="gate",
                owner=asked.owner,
                question_id=asked.question_id,
                text=asked.text,
                answer_type=asked.answer_type,
            ),
            "chunk/w-3f2a/gate",
            0,
        ),
        ("down", "accept", Accept(**control, lease_ms=3_000), "control/gate", 0),
        ("down", "refine", Refine(**control, start=16, stop=32, lease_ms=3_000), "control/gate", 0),
        (
            "down",
            "provisional answer",
            Answer(
                query_id=asked.query_id("gate", frame),
                owner=asked.owner,
                camera="gate",
                frame=frame,
                attempt=1,
                question_id="gate-open",
                worker="w-3f2a",
                text="yes",
                score=0.75,
                latents=16,
                payload_bytes=160,
                looks=1,
            ),
            "answer/gate",
            0,
        ),
    ]
    rows = []
    for direction, name, message, topic, qos in cases:
        full_topic, size_bytes = f"{topics.ROOT}/{topic}", len(wire.encode(message))
        rows.append(
            (
                direction,
                name,
                qos,
                f"{size_bytes:,}",
                f"{publish_packet_bytes(full_topic, size_bytes, qos):,}",
                f"{publish_wire_bytes(full_topic, size_bytes, qos):,}",
            )
        )
    return table(("link", "message", "QoS", "message bytes", "MQTT packet", "on the wire, TLS"), rows)
