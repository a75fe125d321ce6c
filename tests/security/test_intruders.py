"""Who must not get in, and what somebody inside must not be able to do to others."""

from __future__ import annotations

import shutil
import socket
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from broker_config.certificates import DEVICE_DAYS, CertificateAuthority, Issued, utc_now
from broker_config.fleet_folder import FleetFolder
from broker_config.launcher import LocalBroker
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings, TlsSettings
from tests.bus.support import FAST, connection_problem
from tests.security.probe import NOT_AUTHORIZED, Probe

pytestmark = pytest.mark.broker


def authority_of(fleet: FleetFolder) -> CertificateAuthority:
    folder = fleet.path / "authority"
    return CertificateAuthority.load((folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes(), None)


def identity(folder: Path, issued: Issued, trusted: bytes) -> Path:
    """A device folder with any certificate in it."""
    folder.mkdir()
    (folder / "device.crt").write_bytes(issued.certificate)
    (folder / "device.key").write_bytes(issued.key or b"")
    (folder / "ca.crt").write_bytes(trusted)
    return folder


def gets_in(port: int, folder: Path | None) -> bool:
    """Whether a connection comes to a CONNACK that says yes."""
    try:
        with Probe(port, folder) as probe:
            return probe.connected == 0
    except OSError:
        return False


def test_a_device_gets_in(secured: LocalBroker, settled_fleet: FleetFolder) -> None:
    assert gets_in(secured.port, settled_fleet.device("north"))


def test_plain_tcp_gets_nobody_in(secured: LocalBroker) -> None:
    assert not gets_in(secured.port, None)


def test_tls_without_a_certificate_gets_nobody_in(
    secured: LocalBroker, settled_fleet: FleetFolder, tmp_path: Path
) -> None:
    shutil.copy(settled_fleet.broker / "ca.crt", tmp_path / "ca.crt")
    assert not gets_in(secured.port, tmp_path)


def test_a_password_is_no_way_around_the_certificate(secured: LocalBroker, settled_fleet: FleetFolder) -> None:
    answered: list[int] = []
    client = Client(CallbackAPIVersion.VERSION2, client_id="north", protocol=MQTTv5)
    client.username_pw_set("north", "guess")
    client.tls_set_context(ssl.create_default_context(cafile=str(settled_fleet.broker / "ca.crt")))
    client.on_connect = lambda _client, _data, _flags, code, _properties: answered.append(code.value)
    try:
        client.connect("127.0.0.1", secured.port)
        while client.loop(0.1) == 0:
            pass
    except OSError:
        pass
    assert answered == []


def test_an_expired_certificate_gets_nobody_in(
    secured: LocalBroker, settled_fleet: FleetFolder, tmp_path: Path
) -> None:
    authority = authority_of(settled_fleet)
    last_year = utc_now() - timedelta(days=DEVICE_DAYS + 1)
    expired = identity(tmp_path / "north", authority.issue_device("north", last_year), authority.certificate)
    assert not gets_in(secured.port, expired)


def test_a_certificate_of_the_future_gets_nobody_in(
    secured: LocalBroker, settled_fleet: FleetFolder, tmp_path: Path
) -> None:
    authority = authority_of(settled_fleet)
    tomorrow = utc_now() + timedelta(days=1)
    early = identity(tmp_path / "north", authority.issue_device("north", tomorrow), authority.certificate)
    assert not gets_in(secured.port, early)


def test_a_certificate_of_another_authority_gets_nobody_in(
    secured: LocalBroker, settled_fleet: FleetFolder, tmp_path: Path
) -> None:
    # Even one that says of itself what ours says.
    foreign = CertificateAuthority.create(utc_now()).issue_device("north", utc_now())
    trusted = (settled_fleet.broker / "ca.crt").read_bytes()
    assert not gets_in(secured.port, identity(tmp_path / "north", foreign, trusted))


def test_a_device_cannot_sign_for_others(secured: LocalBroker, settled_fleet: FleetFolder, tmp_path: Path) -> None:
    own = settled_fleet.device("north")
    forged = CertificateAuthority.load(
        (own / "device.crt").read_bytes(), (own / "device.key").read_bytes(), None
    ).issue_device("w1", utc_now())
    chained = Issued(
        forged.certificate + (own / "device.crt").read_bytes(), forged.key, forged.serial, forged.not_after
    )
    assert not gets_in(secured.port, identity(tmp_path / "w1", chained, (own / "ca.crt").read_bytes()))


def test_the_broker_s_own_certificate_is_no_device(
    secured: LocalBroker, settled_fleet: FleetFolder, tmp_path: Path
) -> None:
    for source, target in (("server.crt", "device.crt"), ("server.key", "device.key"), ("ca.crt", "ca.crt")):
        shutil.copy(settled_fleet.broker / source, tmp_path / target)
    assert not gets_in(secured.port, tmp_path)


def handshake(port: int, context: ssl.SSLContext) -> str | None:
    """Version of TLS that broker and client agree on."""
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        return secure.version()


async def test_a_device_does_not_take_another_one_for_the_broker(
    secured: LocalBroker, settled_fleet: FleetFolder, tmp_path: Path
) -> None:
    (tmp_path / "ca.crt").write_bytes(CertificateAuthority.create(utc_now()).certificate)
    own = settled_fleet.device("north")
    tls = TlsSettings(ca_file=tmp_path / "ca.crt", cert_file=own / "device.crt", key_file=own / "device.key")
    async with MqttBus(BrokerSettings(port=secured.port, tls=tls), client_id="north", backoff=FAST) as bus:
        assert "certificate verify failed" in await connection_problem(bus)


def test_old_versions_of_tls_get_nobody_in(secured: LocalBroker, settled_fleet: FleetFolder) -> None:
    folder = settled_fleet.device("north")
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / "device.crt", folder / "device.key")
    assert handshake(secured.port, context) == "TLSv1.3"
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="protocol version"):
        handshake(secured.port, context)


def test_a_certificate_that_is_not_in_the_register_can_do_nothing(
    secured: LocalBroker, settled_fleet: FleetFolder, tmp_path: Path
) -> None:
    authority = authority_of(settled_fleet)
    unknown = identity(tmp_path / "unknown", authority.issue_device("unknown", utc_now()), authority.certificate)
    with Probe(secured.port, unknown) as probe:
        topics = ["lb/v2/open/main/gate", "lb/v2/answer/gate", "lb/v2/status/worker/unknown"]
        assert set(probe.publish(topics).values()) == {NOT_AUTHORIZED}
        assert set(probe.subscribe([*topics, "lb/v2/#", "#", "$SYS/#"]).values()) == {NOT_AUTHORIZED}


def test_a_client_identifier_is_not_the_client_s_choice(secured: LocalBroker, settled_fleet: FleetFolder) -> None:
    with Probe(secured.port, settled_fleet.device("north")) as victim:
        victim.subscribe(["lb/v2/control/gate"])
        with Probe(secured.port, settled_fleet.device("south"), client_id="north") as thief:
            assert thief.connected == 0
            # It is south to the broker, whatever it calls itself, and north keeps its session.
            assert thief.publish(["lb/v2/status/edge/south", "lb/v2/status/edge/north"]) == {
                "lb/v2/status/edge/south": 16,
                "lb/v2/status/edge/north": NOT_AUTHORIZED,
            }
            with Probe(secured.port, settled_fleet.device("w1")) as worker:
                worker.publish(["lb/v2/control/gate"])
            victim.wait(lambda: victim.received)
        assert not victim.disconnected
        assert victim.received == [("lb/v2/control/gate", "w1")]


def test_a_forged_answer_reaches_nobody(secured: LocalBroker, settled_fleet: FleetFolder) -> None:
    with (
        Probe(secured.port, settled_fleet.device("north")) as edge,
        Probe(secured.port, settled_fleet.device("screen")) as screen,
        Probe(secured.port, settled_fleet.device("w1")) as worker,
    ):
        edge.subscribe(["lb/v2/answer/gate", "lb/v2/control/gate"])
        screen.subscribe(["lb/v2/answer/+"])
        for forger in ("south", "alice", "guard", "screen", "web", "olga", "tape", "admin"):
            if forger == "screen":
                codes = screen.publish(["lb/v2/answer/gate", "lb/v2/control/gate"])
            else:
                with Probe(secured.port, settled_fleet.device(forger)) as probe:
                    codes = probe.publish(["lb/v2/answer/gate", "lb/v2/control/gate"])
            assert set(codes.values()) == {NOT_AUTHORIZED}, forger
        worker.publish(["lb/v2/answer/gate"])
        for reader in (edge, screen):
            reader.wait(lambda reader=reader: reader.received)
            assert reader.received == [("lb/v2/answer/gate", "w1")]


def test_a_forged_last_will_is_not_published(secured: LocalBroker, settled_fleet: FleetFolder) -> None:
    device = settled_fleet.device
    with Probe(secured.port, device("screen")) as screen:
        screen.subscribe(["lb/v2/status/+/+"])
        screen.received.clear()
        with Probe(secured.port, device("south"), will="lb/v2/status/worker/w1") as forger:
            assert forger.connected == 0
            forger.vanish()
        with Probe(secured.port, device("w1"), will="lb/v2/status/worker/w1") as honest:
            assert honest.connected == 0
            honest.vanish()
        screen.wait(lambda: screen.received)
        assert screen.received == [("lb/v2/status/worker/w1", "w1")]


def test_a_seat_in_the_share_group_cannot_be_stolen(secured: LocalBroker, settled_fleet: FleetFolder) -> None:
    count = 10
    seat = "$share/main/lb/v2/open/main/+"
    with (
        Probe(secured.port, settled_fleet.device("w1")) as worker,
        Probe(secured.port, settled_fleet.device("north")) as edge,
    ):
        worker.subscribe([seat])
        for thief in ("south", "w2", "alice", "screen", "web", "olga", "tape"):
            with Probe(secured.port, settled_fleet.device(thief)) as probe:
                assert probe.subscribe([seat, "$share/main/lb/v2/open/main/gate"]) == {
                    seat: NOT_AUTHORIZED,
                    "$share/main/lb/v2/open/main/gate": NOT_AUTHORIZED,
                }
                for _ in range(count):
                    edge.publish(["lb/v2/open/main/gate"])
                probe.subscribe(["fence"])
                assert probe.received == []
        worker.wait(lambda: len(worker.received) >= 7 * count)
        assert worker.received == 7 * count * [("lb/v2/open/main/gate", "north")]


def test_the_broker_s_log_names_no_payload_and_no_key(secured: LocalBroker, settled_fleet: FleetFolder) -> None:
    log = secured.log_path.read_text()
    assert "north" in log  # who came is there
    assert "PRIVATE KEY" not in log
    assert "commands" not in log  # every payload of a probe has this word
    for key in settled_fleet.path.rglob("*.key"):
        assert key.read_text().splitlines()[1] not in log
