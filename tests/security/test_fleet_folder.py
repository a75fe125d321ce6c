"""The folder of a fleet: what is in its files, who may read them, and what each change does to them."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker_config.certificates import BROKER_NAME
from broker_config.devices import Device, DeviceKind
from broker_config.fleet_folder import FleetFolder
from pipeline.config.settings import load_settings
from schemas.errors import ConfigError
from schemas.types import NAME_PATTERN


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def common_name(one: x509.Certificate) -> str | bytes:
    return one.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def revoked(fleet: FleetFolder) -> set[int]:
    found = x509.load_pem_x509_crl((fleet.broker / "revoked.pem").read_bytes())
    authority = certificate(fleet.broker / "ca.crt").public_key()
    assert isinstance(authority, ec.EllipticCurvePublicKey)
    assert found.is_signature_valid(authority)
    return {entry.serial_number for entry in found}


def roles(fleet: FleetFolder) -> set[str]:
    return {role["rolename"] for role in json.loads((fleet.broker / "dynamic-security.json").read_text())["roles"]}


def test_a_device_gets_what_it_needs_and_nothing_more(fleet: FleetFolder) -> None:
    folder = fleet.device("north")
    assert {path.name for path in folder.iterdir()} == {"ca.crt", "device.crt", "device.key", "settings.yaml"}
    own = certificate(folder / "device.crt")
    own.verify_directly_issued_by(certificate(folder / "ca.crt"))
    assert common_name(own) == "north"
    assert not own.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]


def test_its_settings_file_works_as_it_is(fleet: FleetFolder) -> None:
    settings = load_settings(fleet.device("w1") / "settings.yaml")
    assert settings.worker is not None
    assert (settings.worker.name, settings.worker.pool) == ("w1", "main")
    assert (settings.broker.host, settings.broker.port, settings.broker.username) == ("127.0.0.1", 8883, "w1")
    tls = settings.broker.tls
    assert tls is not None
    assert {tls.ca_file, tls.cert_file, tls.key_file} == {
        fleet.device("w1") / name for name in ("ca.crt", "device.crt", "device.key")
    }


def test_the_broker_is_known_by_its_hosts_and_can_be_no_device(fleet: FleetFolder) -> None:
    server = certificate(fleet.broker / "server.crt")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    with pytest.raises(ValueError, match="pattern"):
        Device(name=BROKER_NAME, kind=DeviceKind.ADMIN)
    assert " " not in NAME_PATTERN


def test_secrets_are_their_owner_s_alone(fleet: FleetFolder) -> None:
    secrets = [*fleet.path.rglob("*.key"), fleet.broker / "dynamic-security.json"]
    assert len(secrets) == 2 + len(fleet.register.devices) + 1
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((fleet.path / "authority").stat().st_mode) == 0o700
    assert not list(fleet.path.rglob("*.new"))
    public = [path for path in fleet.path.rglob("*") if path.is_file() and path not in secrets]
    assert not [path for path in public if b"PRIVATE" in path.read_bytes()]


def test_a_passphrase_guards_the_authority(tmp_path: Path) -> None:
    path = tmp_path / "fleet"
    FleetFolder.create(path, ["broker.example"], passphrase=b"horse")
    assert b"ENCRYPTED" in (path / "authority" / "ca.key").read_bytes()
    device = Device(name="alice", kind=DeviceKind.CLIENT)
    for wrong in (None, b"donkey"):
        with pytest.raises(ConfigError, match="authority") as caught:
            FleetFolder(path, wrong).add(device)
        assert "donkey" not in str(caught.value)
    assert "alice" not in FleetFolder(path, b"horse").register.devices
    FleetFolder(path, b"horse").add(device)
    assert "alice" in FleetFolder(path).register.devices


def test_a_revoked_device_has_no_rights_and_no_valid_certificate(fleet: FleetFolder) -> None:
    serial = certificate(fleet.device("north") / "device.crt").serial_number
    assert revoked(fleet) == set()
    assert fleet.remove("north") == 1
    assert revoked(fleet) == {serial}
    assert "north" not in roles(fleet)
    assert not fleet.device("north").exists()
    with pytest.raises(ConfigError, match="not in this fleet"):
        fleet.remove("north")
    # Its name and camera are free again, and its old certificate stays revoked.
    fleet.add(Device(name="north", kind=DeviceKind.EDGE, pool="main", cameras=("gate",)))
    assert revoked(FleetFolder(fleet.path)) == {serial}
    assert "north" in roles(fleet)


def test_a_renewal_overlaps_and_a_stolen_key_does_not(fleet: FleetFolder) -> None:
    def serial() -> int:
        return certificate(fleet.device("w1") / "device.crt").serial_number

    first = serial()
    fleet.renew("w1")
    second = serial()
    assert second != first
    assert revoked(fleet) == set()
    assert fleet.revoke_older("w1") == 1
    assert revoked(fleet) == {first}
    assert fleet.revoke_older("w1") == 0
    fleet.remove("w1")
    assert revoked(fleet) == {first, second}


def test_the_device_that_changes_the_rules_cannot_lock_itself_out(fleet: FleetFolder) -> None:
    with pytest.raises(ConfigError, match="renew"):
        fleet.remove("admin")


def test_rights_change_and_the_certificate_stays(fleet: FleetFolder) -> None:
    before = (fleet.device("north") / "device.crt").read_bytes()
    fleet.update(Device(name="north", kind=DeviceKind.EDGE, pool="main", cameras=("gate", "lane")))
    assert (fleet.device("north") / "device.crt").read_bytes() == before
    assert "lb/v2/control/lane" in (fleet.broker / "dynamic-security.json").read_text()
    with pytest.raises(ConfigError, match="registered as edge"):
        fleet.update(Device(name="north", kind=DeviceKind.CLIENT))
    with pytest.raises(ConfigError, match="not in this fleet"):
        fleet.update(Device(name="west", kind=DeviceKind.CLIENT))


def test_a_name_and_a_camera_have_one_owner(fleet: FleetFolder) -> None:
    for device, problem in (
        (Device(name="north", kind=DeviceKind.WORKER, pool="main"), "in the fleet already, as edge with cameras gate"),
        (
            Device(name="west", kind=DeviceKind.EDGE, pool="main", cameras=("yard",)),
            "camera yard belongs to site south",
        ),
    ):
        with pytest.raises(ConfigError, match=problem):
            fleet.add(device)
    with pytest.raises(ConfigError, match="camera yard belongs to site south"):
        fleet.update(Device(name="north", kind=DeviceKind.EDGE, pool="main", cameras=("gate", "yard")))
    assert not fleet.device("west").exists()


def request_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_device_can_keep_its_key_and_cannot_choose_who_it_is(fleet: FleetFolder) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    fleet.add(Device(name="bob", kind=DeviceKind.CLIENT), request=request_of(key))
    signed = certificate(fleet.device("bob") / "device.crt")
    assert common_name(signed) == "bob"
    assert signed.public_key() == key.public_key()
    assert not signed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not (fleet.device("bob") / "device.key").exists()


@pytest.mark.parametrize("kind", ["garbage", "weak", "tampered"])
def test_a_bad_request_is_refused_and_leaves_nothing_behind(fleet: FleetFolder, kind: str) -> None:
    if kind == "garbage":
        request = b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
    elif kind == "weak":
        request = request_of(rsa.generate_private_key(65537, 1024))
    else:
        der = bytearray(
            x509.load_pem_x509_csr(request_of(ec.generate_private_key(ec.SECP256R1()))).public_bytes(
                serialization.Encoding.DER
            )
        )
        der[der.index(b"admin")] ^= 1
        request = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(ConfigError, match="signing request"):
        fleet.add(Device(name="bob", kind=DeviceKind.CLIENT), request=request)
    assert "bob" not in FleetFolder(fleet.path).register.devices
    assert not fleet.device("bob").exists()


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    long_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3600)
    fleet = FleetFolder.create(tmp_path / "fleet", ["h"], now=long_ago)
    fleet.add(Device(name="alice", kind=DeviceKind.CLIENT), days=397)
    authority = certificate(fleet.broker / "ca.crt")
    assert certificate(fleet.device("alice") / "device.crt").not_valid_after_utc == authority.not_valid_after_utc


@pytest.mark.parametrize("host", ["", "grün.example"])
def test_a_host_that_is_none_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="host"):
        FleetFolder.create(tmp_path / "fleet", [host])
    assert not (tmp_path / "fleet").exists()


def test_a_fleet_is_not_made_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(ConfigError, match="not empty"):
        FleetFolder.create(tmp_path, ["h"])
    with pytest.raises(ConfigError, match="broker certs"):
        FleetFolder(tmp_path)
    (tmp_path / "register.json").write_text('{"hosts": 3}')
    with pytest.raises(ConfigError, match="damaged"):
        FleetFolder(tmp_path)


def version_1(fleet: FleetFolder, *, version: object = 1) -> bytes:
    """Make the register one of version 1, or of whatever is given."""
    path = fleet.path / "register.json"
    document = json.loads(path.read_bytes())
    document["version"] = version
    document["devices"]["north"]["questions"] = ["car"]
    content = json.dumps(document).encode()
    path.write_bytes(content)
    return content


def test_a_register_of_version_1_is_set_aside_and_loses_nobody(fleet: FleetFolder) -> None:
    fleet.remove("w2")
    before, lost = fleet.register, revoked(fleet)
    old = version_1(fleet)
    (fleet.broker / "dynamic-security.json").write_text("{}")
    opened = FleetFolder(fleet.path)
    assert opened.set_aside == fleet.path / "register.v1.json"
    assert opened.set_aside.read_bytes() == old
    assert opened.register == before
    assert "lb/v2/question/north/+" in (fleet.broker / "dynamic-security.json").read_text()
    # What was revoked stays so, and the next revocation list has it.
    opened.remove("w1")
    assert lost < revoked(opened)
    assert FleetFolder(fleet.path).set_aside is None
    # A second one, from a backup, does not take the place of the first.
    version_1(fleet)
    assert FleetFolder(fleet.path).set_aside == fleet.path / "register.v1-2.json"
    assert (fleet.path / "register.v1.json").read_bytes() == old


@pytest.mark.parametrize("version", [3, 0, "1", True, None, 1.0])
def test_a_register_of_a_version_that_is_not_known_is_left_alone(fleet: FleetFolder, version: object) -> None:
    content = version_1(fleet, version=version)
    with pytest.raises(ConfigError, match=r"register of version .* reads versions 1 to 2"):
        FleetFolder(fleet.path)
    assert (fleet.path / "register.json").read_bytes() == content
    assert not (fleet.path / "register.v1.json").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"south": {"name": "south", "kind": "edge", "pool": "main", "cameras": ["gate"]}}, "belongs to two sites"),
        ({"south": {"name": "north", "kind": "client"}}, "device south calls itself north"),
        ({"south": 3}, r"damaged: devices\.south"),
    ],
)
def test_a_register_that_gives_a_name_or_a_camera_to_two_is_damaged(
    fleet: FleetFolder, change: dict[str, object], problem: str
) -> None:
    path = fleet.path / "register.json"
    document = json.loads(path.read_bytes())
    document["devices"].update(change)
    for version in (1, 2):
        path.write_text(json.dumps({**document, "version": version}))
        with pytest.raises(ConfigError, match=problem):
            FleetFolder(fleet.path)
    for content in ("", "[]", "3", '{"version": 2, "hosts": 3}', "{"):
        path.write_text(content)
        with pytest.raises(ConfigError, match="damaged"):
            FleetFolder(fleet.path)
