"""Why a connection ended: typed, with the cause and the setting. Against a real Mosquitto where one can say so."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from broker_config.certificates import DEVICE_DAYS, CertificateAuthority, Issued, utc_now
from broker_config.launcher import LocalBroker
from pipeline.bus.backoff import Backoff
from pipeline.bus.endings import TAKEN_OVER_CODE, tls_failure, told_by_broker, unreachable
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings, TlsSettings
from schemas.errors import ConnectionLostError, SessionTakenOverError, TlsError
from tests.bus.support import DISCONNECT, FAST, PUBACK, WAIT_S, Relay, connected, connection_problem, take, take_change

NEVER = Backoff(initial_s=100_000.0, maximum_s=200_000.0, stable_s=300_000.0)


async def problem_of(bus: MqttBus) -> ConnectionLostError:
    await connection_problem(bus)
    with pytest.raises(ConnectionLostError) as caught:
        await bus.wait_connected(0.02)
    return caught.value


@pytest.mark.broker
async def test_of_two_processes_with_one_client_id_one_works_and_the_other_says_why_it_waits(
    broker_settings: BrokerSettings,
) -> None:
    async with (
        connected(broker_settings, "edge-north", backoff=FAST, takeover_backoff=NEVER) as one,
        connected(broker_settings, "edge-north", "t", backoff=FAST, takeover_backoff=NEVER) as other,
    ):
        # Mosquitto 2.0.12 and later give the reason at once, 2.0.11 never: the third time in a row it is guessed.
        changes = [await take_change(one)]
        while changes[-1].connected or "another process uses the client id edge-north" not in changes[-1].reason:
            changes.append(await take_change(one))
        assert changes[-1].reason_code in {TAKEN_OVER_CODE, None}
        assert "edge.site" in changes[-1].reason
        with pytest.raises(SessionTakenOverError) as caught:
            await one.wait_connected(0.02)
        assert (caught.value.client_id, caught.value.reason_code) == ("edge-north", changes[-1].reason_code)
        await other.wait_connected(WAIT_S)
        await other.publish("t", b"mine", qos=1)
        assert [message.payload for message in await take(other, 1)] == [b"mine"]
        assert not one.statistics().connected


@pytest.mark.broker
@pytest.mark.parametrize("code", [129, 130, 135, 137, 139, 141, 142, 147, 149, 150, 151, 152, 156, 157, 159, 160])
async def test_the_broker_s_reason_code_is_in_the_event_and_in_the_error(broker: LocalBroker, code: int) -> None:
    name = str(ReasonCode(PacketTypes.DISCONNECT, identifier=code))
    async with Relay(broker) as relay, connected(relay.settings, "a", backoff=NEVER, takeover_backoff=NEVER) as bus:
        relay.replace = lambda packet: bytes([DISCONNECT << 4, 1, code]) if packet.kind == PUBACK else None
        with pytest.raises(ConnectionLostError):
            await bus.publish("t", b"", qos=1)
        change = await take_change(bus)
        assert change.reason_code == code
        assert name in change.reason
        assert f"reason code {code}" in change.reason
        with pytest.raises(ConnectionLostError) as caught:
            await bus.wait_connected(0.02)
        assert caught.value.reason_code == code
        assert isinstance(caught.value, SessionTakenOverError) == (code == TAKEN_OVER_CODE)


def test_a_code_without_a_hint_is_told_by_its_name() -> None:
    error = told_by_broker("the broker disconnected", 144, "Topic name invalid", "a")
    assert str(error) == "the broker disconnected: Topic name invalid (reason code 144)"


@dataclass(frozen=True)
class Sides:
    """Certificates of a broker and of a client, in a folder."""

    folder: Path
    authority: CertificateAuthority

    def write(self, name: str, issued: Issued) -> None:
        assert issued.key is not None
        (self.folder / f"{name}.crt").write_bytes(issued.certificate)
        (self.folder / f"{name}.key").write_bytes(issued.key)

    def tls(self, *, ca: str = "ca", client: str | None = "client") -> TlsSettings:
        files = {} if client is None else {
            "cert_file": self.folder / f"{client}.crt", "key_file": self.folder / f"{client}.key",
        }  # fmt: skip
        return TlsSettings(ca_file=self.folder / f"{ca}.crt", **files)

    def broker(self, server: str = "server") -> LocalBroker:
        lines = (f"cafile {self.folder}/ca.crt", f"certfile {self.folder}/{server}.crt")
        keys = (f"keyfile {self.folder}/{server}.key", "require_certificate true")
        return LocalBroker(listener_lines=[*lines, *keys])


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    now, past = utc_now(), utc_now() - timedelta(days=DEVICE_DAYS + 10)
    made = Sides(tmp_path_factory.mktemp("tls"), CertificateAuthority.create(past))
    other = CertificateAuthority.create(now)
    (made.folder / "ca.crt").write_bytes(made.authority.certificate)
    (made.folder / "other-ca.crt").write_bytes(other.certificate)
    made.write("server", made.authority.issue_broker(["127.0.0.1"], now))
    made.write("old-server", made.authority.issue_broker(["127.0.0.1"], past))
    made.write("future-server", made.authority.issue_broker(["127.0.0.1"], now + timedelta(days=2)))
    made.write("client", made.authority.issue_device("a", now))
    made.write("old-client", made.authority.issue_device("a", past))
    made.write("foreign-client", other.issue_device("a", now))
    return made


Case = tuple[str, Callable[[Sides], TlsSettings | None], str, str, str]
CASES: list[Case] = [
    ("server", lambda sides: None, "127.0.0.1", "broker.tls", "Is this its TLS port?"),
    ("server", lambda sides: sides.tls(ca="other-ca"), "127.0.0.1", "broker.tls.ca_file", "ca.crt of this fleet"),
    ("server", lambda sides: TlsSettings(), "127.0.0.1", "broker.tls.ca_file", "ca.crt of this fleet"),
    ("server", lambda sides: sides.tls(), "localhost", "broker.host", "another name"),
    ("old-server", lambda sides: sides.tls(), "127.0.0.1", "broker.tls", "has expired"),
    ("future-server", lambda sides: sides.tls(), "127.0.0.1", "broker.tls", "not valid yet"),
    ("server", lambda sides: sides.tls(client=None), "127.0.0.1", "broker.tls.cert_file", "client certificate|none"),
    ("server", lambda sides: sides.tls(client="old-client"), "127.0.0.1", "broker.tls.cert_file", "expired"),
    ("server", lambda sides: sides.tls(client="foreign-client"), "127.0.0.1", "broker.tls.cert_file", "authority"),
]


@pytest.mark.broker
@pytest.mark.parametrize(
    ("server", "tls", "host", "setting", "cause"),
    CASES,
    ids=[
        "plain client", "wrong authority", "authorities of the system", "wrong name", "broker expired",
        "broker not yet valid", "no client certificate", "client expired", "client of another authority",
    ],
)  # fmt: skip
async def test_a_tls_problem_names_its_cause_and_the_setting(
    sides: Sides, server: str, tls: Callable[[Sides], TlsSettings | None], host: str, setting: str, cause: str
) -> None:
    async with sides.broker(server) as broker:
        settings = BrokerSettings(host=host, port=broker.port, tls=tls(sides))
        async with MqttBus(settings, client_id="a", backoff=FAST) as bus:
            error = await problem_of(bus)
    assert isinstance(error, TlsError), error
    assert error.setting == setting
    assert f"{host}:{broker.port}: {setting}: " in str(error)
    assert any(part in str(error) for part in cause.split("|"))


@pytest.mark.broker
async def test_tls_to_a_plain_port_is_said_to_be_that(broker: LocalBroker, sides: Sides) -> None:
    async with MqttBus(BrokerSettings(port=broker.port, tls=sides.tls()), client_id="a", backoff=FAST) as bus:
        error = await problem_of(bus)
    assert isinstance(error, TlsError), error
    assert error.setting == "broker.tls"
    assert "Is this its plain port?" in str(error)


def test_what_is_no_matter_of_tls_is_not_said_to_be_one() -> None:
    assert tls_failure(ConnectionRefusedError(111, "Connection refused")) is None


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "check broker.host and broker.port"),
        (socket.gaierror(-2, "Name or service not known"), "check broker.host"),
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_a_broker_that_cannot_be_reached_names_the_setting(error: OSError, fix: str) -> None:
    assert fix in unreachable(error)
    assert tls_failure(TimeoutError("timed out")) is None


@pytest.mark.parametrize(
    ("reason", "setting", "words"),
    [
        ("SSLV3_ALERT_CERTIFICATE_REVOKED", "broker.tls.cert_file", "was revoked"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "broker.tls.cert_file", "refuses"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "broker.tls.cert_file", "none of this process' TLS settings"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "broker.tls", "TLS 1.2"),
        ("WRONG_VERSION_NUMBER", "broker.tls", "plain port"),
        ("SOMETHING_NEW", "broker.tls", "something new"),
    ],
)
def test_what_the_tls_library_says_is_translated(reason: str, setting: str, words: str) -> None:
    raised = ssl.SSLError(1, "words")
    raised.reason = reason
    error = tls_failure(raised)
    assert error is not None
    assert error.setting == setting
    assert words in str(error)
