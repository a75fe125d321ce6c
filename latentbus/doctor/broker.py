"""The broker as one identity finds it: reachable, its version and abilities, and which topics it grants."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from broker_config.access import Access, rights_of
from broker_config.devices import Device, DeviceKind
from broker_config.limits import MAX_PACKET_BYTES
from edge_nodes.check.findings import Finding, Verdict
from latentbus.broker.retained_store import retained_messages
from latentbus.doctor.known_bugs import RECOMMENDED, Software, bugs_of, parse_version, text_of
from latentbus.doctor.tls import is_loopback
from pipeline.bus.base import BrokerAbilities, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from schemas import topics, wire
from schemas.errors import BusError, ConfigError, NotAuthorizedError, RemoteError
from schemas.messages import Receipt, Status
from schemas.topics import Family

LIMIT_S: Final = 15.0
VERSION_FILTERS: Final = ("$SYS/broker/version", "$SYS/brokers/+/version")
_SHARE: Final = "$share/"
_LEAST_ALIASES: Final = 30
_SHOWN: Final = 3


@dataclass(slots=True)
class BrokerFindings:
    """What was found, and the statuses that may be read.

    Attributes:
        findings: in order.
        statuses: of edges and workers.
        connected: whether the broker let this identity in.
    """

    findings: list[Finding] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    connected: bool = False


async def check_broker(broker: BrokerSettings, device: Device, client_id: str) -> BrokerFindings:
    """Connect, look, and leave.

    Args:
        broker: where it is, and who this is to it.
        device: what this identity is to do there.
        client_id: a broker with identities takes the user name in its place.
    """
    result = BrokerFindings()
    where = f"{broker.host}:{broker.port}" + ("" if broker.tls is None else " over TLS")
    began_s = time.perf_counter()
    try:
        async with MqttBus(broker, client_id=client_id) as bus:
            await bus.wait_connected(LIMIT_S)
            took_s = time.perf_counter() - began_s
            result.connected = True
            found = f"{where}: connected in {took_s:.2f} s"
            result.findings.append(Finding("broker", Verdict.GOOD, found, None, {"connect_s": round(took_s, 3)}))
            result.findings.append(judge_version(await _software(bus)))
            result.findings.append(judge_abilities(bus.abilities or BrokerAbilities()))
            result.findings.append(await _topics(bus, device, client_id))
            result.statuses = await _statuses(bus)
    except ConfigError as error:
        result.findings.append(Finding("broker", Verdict.BAD, str(error), "correct the broker section of the settings"))
    except NotAuthorizedError as error:
        fix = "look at user name and password, or at the certificate, and at the broker's rules for it"
        result.findings.append(Finding("broker", Verdict.BAD, f"{where}: {error}", fix))
    except BusError as error:
        fix = "look at the section `broker` of the settings; docs/operations.md lists what each message means"
        result.findings.append(Finding("broker", Verdict.BAD, f"{where}: {error}", fix))
    if result.connected:
        result.findings.append(await _strangers(broker))
    return result


async def _software(bus: MqttBus) -> Software | None:
    for topic_filter in VERSION_FILTERS:
        try:
            messages = await retained_messages(bus, topic_filter)
        except NotAuthorizedError:
            continue
        for message in messages:
            if (found := parse_version(message.topic, message.payload)) is not None:
                return found
    return None


def judge_version(software: Software | None) -> Finding:
    """What is known of a broker of this version."""
    what = "version"
    if software is None:
        fix = f"look at the broker itself: Mosquitto {text_of(RECOMMENDED)} or later is recommended"
        return Finding(what, Verdict.UNKNOWN, "the broker does not tell its version to this identity", fix)
    bugs = bugs_of(software)
    if not bugs:
        note = "" if software.name == "mosquitto" else "; no list of its bugs is kept here"
        return Finding(what, Verdict.GOOD, f"{software}{note}", None, {"version": str(software)})
    found = f"{software}: " + "; ".join(bug.text for bug in bugs)
    needed = text_of(max(RECOMMENDED, *(bug.fixed for bug in bugs)))
    fix = f"install {needed} or later; distributions may have mended some of it in packages of their own"
    return Finding(what, Verdict.WARN, found, fix, {"version": str(software), "known_bugs": len(bugs)})


def judge_abilities(abilities: BrokerAbilities) -> Finding:
    """Whether the broker can do what a fleet needs."""
    missing = []
    if not abilities.shared_subscriptions:
        missing.append("share groups, by which frames are dealt to workers")
    if not abilities.retain:
        missing.append("retained messages: statuses, questions and key frames")
    if not abilities.wildcards:
        missing.append("wildcards in filters")
    if abilities.maximum_qos < 1:
        missing.append("QoS 1")
    if abilities.packet_bytes is not None and abilities.packet_bytes < MAX_PACKET_BYTES:
        missing.append(f"packets of {MAX_PACKET_BYTES:,} bytes (it takes {abilities.packet_bytes:,})")
    what = "abilities"
    if missing:
        fix = "allow it in the broker's configuration, or use another one; docs/brokers.md lists those that were tried"
        return Finding(what, Verdict.BAD, f"the broker has no {', no '.join(missing)}", fix)
    found = f"MQTT 5, share groups, retained messages, {abilities.topic_aliases} topic aliases"
    figures = {"topic_aliases": abilities.topic_aliases, "receive_maximum": abilities.receive_maximum}
    if abilities.topic_aliases < _LEAST_ALIASES:
        fix = "a site with more than three cameras spells topics out: max_topic_alias 64 in Mosquitto's configuration"
        return Finding(what, Verdict.TIGHT, found, fix, figures)
    return Finding(what, Verdict.GOOD, found, None, figures)


async def _topics(bus: MqttBus, device: Device, client_id: str) -> Finding:
    """Subscribe to what this identity has to read, one by one; publish where nobody listens."""
    rights = rights_of(device, device.cameras)
    filters = [
        right.topic
        for right in rights
        if right.access in (Access.SUBSCRIBE, Access.SUBSCRIBE_EXACTLY) and not right.topic.startswith(_SHARE)
    ]
    refused = []
    for topic_filter in filters:
        try:
            await bus.subscribe(Subscription(topic_filter, qos=0))
            await bus.unsubscribe(topic_filter)
        except NotAuthorizedError:
            refused.append(f"read {topic_filter}")
    tried = len(filters)
    if device.kind is DeviceKind.EDGE:
        tried += 1
        topic = topics.receipt_topic(client_id, device.name, "doctor")
        receipt = Receipt(site=device.name, about="doctor", accepted=False, reason="latentbus doctor")
        try:
            await bus.publish(topic, wire.encode(receipt), qos=1)
        except NotAuthorizedError:
            refused.append(f"publish {topic}")
    what = "topics"
    if refused:
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        found = f"as {device.kind} {device.name} it may not {', '.join(refused[:_SHOWN])}{more}"
        fix = "latentbus broker add-device FLEET NAME --kind ..., then latentbus broker apply FLEET (docs/security.md)"
        return Finding(what, Verdict.BAD, found, fix, {"refused": refused})
    share = "; the share group is not tried, a frame would be lost" if device.kind is DeviceKind.WORKER else ""
    return Finding(what, Verdict.GOOD, f"{tried} tried as {device.kind} {device.name}, all granted{share}")


async def _statuses(bus: MqttBus) -> list[Status]:
    found = []
    for kind in ("edge", "worker"):
        try:
            messages = await retained_messages(bus, topics.family_filter(Family.STATUS).replace("/+/+", f"/{kind}/+"))
        except NotAuthorizedError:
            continue
        found += [status for message in messages if (status := _status(message.topic, message.payload)) is not None]
    return found


def _status(topic: str, payload: bytes) -> Status | None:
    try:
        _, message = wire.decode_publish(topic, payload)
    except RemoteError:
        return None
    return message if isinstance(message, Status) else None


async def _strangers(broker: BrokerSettings) -> Finding:
    """Whether the broker lets in somebody without a name."""
    what = "strangers"
    tls = broker.tls and broker.tls.model_copy(update={"cert_file": None, "key_file": None})
    nobody = broker.model_copy(update={"username": None, "password": None, "tls": tls})
    try:
        async with MqttBus(nobody, client_id="") as bus:
            await bus.wait_connected(LIMIT_S)
    except (BusError, ConfigError):
        return Finding(what, Verdict.GOOD, "nobody without an identity gets in")
    if is_loopback(broker.host):
        return Finding(what, Verdict.GOOD, "everybody gets in, from this machine at least")
    fix = "give each device a certificate and require it; docs/security.md has the recipe"
    return Finding(what, Verdict.WARN, "everybody who reaches the port gets in, and may read and answer all", fix)


def worst(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict of all."""
    order = (Verdict.GOOD, Verdict.UNKNOWN, Verdict.TIGHT, Verdict.WARN, Verdict.BAD)
    return max((finding.verdict for finding in findings), key=order.index, default=Verdict.GOOD)
