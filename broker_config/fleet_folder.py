"""The folder of a fleet: its authority, what the broker needs, and one folder to hand to each device.

::

    FOLDER/
      authority/  ca.crt  ca.key                                     stays with the operator, offline if possible
      broker/     ca.crt  server.crt  server.key  revoked.pem  dynamic-security.json  broker.nft
      devices/NAME/  ca.crt  device.crt  device.key  settings.yaml
      register.json                                                  who is in the fleet, and every certificate issued
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import yaml
from pydantic import ValidationError

from broker_config.certificates import DEVICE_DAYS, CertificateAuthority, Issued, utc_now
from broker_config.devices import REGISTER_VERSION, Certificate, Device, DeviceKind, Register, from_version_1
from broker_config.dynamic_security import Rules
from broker_config.firewall import firewall_rules
from broker_config.secured import CA_FILE, CERTIFICATE_FILE, KEY_FILE, REVOKED_FILE, RULES_FILE
from schemas.errors import ConfigError
from schemas.problems import echo, problem_text

ADMIN = "admin"
"""Device that changes the rules of a running broker; made with the authority."""
FIREWALL_FILE = "broker.nft"
REGISTER_FILE = "register.json"
SETTINGS_FILE = "settings.yaml"
_PUBLIC, _SECRET = 0o644, 0o600


class FleetFolder:
    """Everything that is done to a fleet's certificates and rights. Each change leaves all files in agreement.

    Args:
        path: the folder, from :meth:`create`.
        passphrase: of the authority's key, if it has one.

    Attributes:
        set_aside: where a register of version 1 was put, when there was one: its devices and certificates were taken
            over, and every right was made anew.

    Raises:
        ConfigError: there is no fleet there, or its register is damaged or of a version that is not known here.
    """

    def __init__(self, path: Path, passphrase: bytes | None = None) -> None:
        self.path = path
        self._passphrase = passphrase
        self.set_aside: Path | None = None
        self.register, version = _load(path / REGISTER_FILE)
        if version != REGISTER_VERSION:
            self.set_aside = _unused(path / f"{Path(REGISTER_FILE).stem}.v{version}.json")
            _write(self.set_aside, _read(path / REGISTER_FILE))
            self._save()

    @classmethod
    def create(
        cls,
        path: Path,
        hosts: Sequence[str],
        *,
        port: int = 8883,
        passphrase: bytes | None = None,
        days: int = DEVICE_DAYS,
        now: datetime | None = None,
    ) -> FleetFolder:
        """A new fleet: authority, broker certificate, and the device :data:`ADMIN`.

        Args:
            path: folder to make; it must be empty or not exist.
            hosts: names and addresses under which devices reach the broker, the preferred one first.
            port: of the secured listener.
            passphrase: encrypts the authority's key.
            days: validity of the broker's and the admin's certificate.
            now: start of validity; the present unless given.

        Raises:
            ConfigError: no host, or the folder holds something.
        """
        if not hosts:
            raise ConfigError("host", "name the host under which devices reach the broker")
        if path.exists() and any(path.iterdir()):
            raise ConfigError(str(path), "is not empty; a fleet gets a folder of its own")
        now = now or utc_now()
        authority = CertificateAuthority.create(now)
        server = authority.issue_broker(hosts, now, days=days)
        for folder, mode in ((path, 0o700), (path / "authority", 0o700), (path / "broker", 0o755)):
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
        _write(path / "authority" / "ca.key", authority.key(passphrase), _SECRET)
        _write(path / "authority" / CA_FILE, authority.certificate)
        _write(path / REGISTER_FILE, Register(hosts=tuple(hosts), port=port).model_dump_json(indent=1).encode())
        fleet = cls(path, passphrase)
        fleet._install_broker(server, authority)
        fleet.add(Device(name=ADMIN, kind=DeviceKind.ADMIN), days=days, now=now)
        return fleet

    @property
    def broker(self) -> Path:
        """What the broker's machine gets."""
        return self.path / "broker"

    def device(self, name: str) -> Path:
        """What a device gets."""
        return self.path / "devices" / name

    def rules(self) -> Rules:
        """What everybody may do."""
        return Rules.of(self.register.devices.values())

    def add(
        self, device: Device, *, request: bytes | None = None, days: int = DEVICE_DAYS, now: datetime | None = None
    ) -> Path:
        """Take a device in.

        Args:
            device: who it is.
            request: its certificate signing request, if it keeps its own key.
            days: validity of its certificate.
            now: start of validity; the present unless given.

        Returns:
            The folder to hand to it.

        Raises:
            ConfigError: the name or a camera is taken.
        """
        if (present := self.register.devices.get(device.name)) is not None:
            cameras = f" with cameras {', '.join(present.cameras)}" if present.cameras else ""
            raise ConfigError(
                device.name,
                f"is in the fleet already, as {present.kind}{cameras}: choose another name, or update or revoke it",
            )
        self._check_cameras(device)
        self._issue(device, request, days, now or utc_now())
        self.register.devices[device.name] = device
        self._save()
        return self.device(device.name)

    def update(self, device: Device) -> None:
        """Change what a device may do; its certificate stays.

        Raises:
            ConfigError: it is not in the fleet, of another kind, or a camera is taken.
        """
        present = self._known(device.name)
        if present.kind is not device.kind:
            raise ConfigError(
                device.name, f"is registered as {present.kind}; revoke it and add it anew as {device.kind}"
            )
        self._check_cameras(device)
        self.register.devices[device.name] = device
        self._write_settings(device)
        self._save()

    def renew(
        self, name: str, *, request: bytes | None = None, days: int = DEVICE_DAYS, now: datetime | None = None
    ) -> Path:
        """A new certificate for a device; older ones stay valid until they run out or :meth:`revoke_older`.

        Returns:
            The folder to hand to it.

        Raises:
            ConfigError: it is not in the fleet.
        """
        self._issue(self._known(name), request, days, now or utc_now())
        self._save()
        return self.device(name)

    def renew_broker(self, hosts: Sequence[str] = (), *, days: int = DEVICE_DAYS, now: datetime | None = None) -> None:
        """A new certificate for the broker.

        Args:
            hosts: its names and addresses from now on; none keeps them.
            days: validity.
            now: start of validity; the present unless given.
        """
        if hosts:
            self.register = self.register.model_copy(update={"hosts": tuple(hosts)})
        authority = self._authority()
        self._install_broker(authority.issue_broker(self.register.hosts, now or utc_now(), days=days), authority)
        for device in self.register.devices.values():
            self._write_settings(device)
        self._save()

    def revoke_older(self, name: str, *, now: datetime | None = None) -> int:
        """Revoke every certificate of a device but the newest, after a renewal has reached it or a key was stolen.

        Returns:
            How many were revoked.
        """
        self._known(name)
        return self._revoke(name, keep=self.register.valid_certificate(name), now=now or utc_now())

    def remove(self, name: str, *, now: datetime | None = None) -> int:
        """Put a device out of the fleet: no rights, and all its certificates revoked.

        Returns:
            How many certificates were revoked.

        Raises:
            ConfigError: it is not in the fleet, or it is the one that changes the rules.
        """
        if self._known(name).kind is DeviceKind.ADMIN:
            raise ConfigError(name, "changes the rules of the broker; renew it instead")
        del self.register.devices[name]
        revoked = self._revoke(name, keep=None, now=now or utc_now())
        shutil.rmtree(self.device(name), ignore_errors=True)
        return revoked

    # ---- files ------------------------------------------------------------------------------------------------------

    def _revoke(self, name: str, *, keep: Certificate | None, now: datetime) -> int:
        before = self.register.certificates
        lost = [one for one in before if one.name == name and one != keep and one.revoked_at is None]
        self.register.certificates = [
            one.model_copy(update={"revoked_at": now}) if one in lost else one for one in before
        ]
        _write(self.broker / REVOKED_FILE, self._authority().revocation_list(self.register.certificates, now))
        self._save()
        return len(lost)

    def _issue(self, device: Device, request: bytes | None, days: int, now: datetime) -> None:
        authority = self._authority()
        name = device.name
        issued = (
            authority.issue_device(name, now, days=days)
            if request is None
            else authority.sign_request(name, request, now, days=days)
        )
        folder = self.device(name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "device.key").unlink(missing_ok=True)
        if issued.key is not None:
            _write(folder / "device.key", issued.key, _SECRET)
        _write(folder / "device.crt", issued.certificate)
        _write(folder / CA_FILE, authority.certificate)
        self._write_settings(device)
        self.register.certificates.append(Certificate(name=name, serial=issued.serial, not_after=issued.not_after))

    def _write_settings(self, device: Device) -> None:
        """A settings file for the device to start from: the broker, and who it is to it."""
        settings: dict[str, object] = {
            "broker": {
                "host": self.register.hosts[0],
                "port": self.register.port,
                "username": device.name,
                "tls": {"ca_file": CA_FILE, "cert_file": "device.crt", "key_file": "device.key"},
            }
        }
        if device.kind is DeviceKind.WORKER:
            settings["worker"] = {"name": device.name, "pool": device.pool}
        _write(self.device(device.name) / SETTINGS_FILE, yaml.safe_dump(settings, sort_keys=False).encode())

    def _install_broker(self, server: Issued, authority: CertificateAuthority) -> None:
        if server.key is None:
            raise AssertionError("a broker's certificate comes with its key")
        _write(self.broker / KEY_FILE, server.key, _SECRET)
        _write(self.broker / CERTIFICATE_FILE, server.certificate)
        _write(self.broker / CA_FILE, authority.certificate)
        _write(self.broker / FIREWALL_FILE, firewall_rules(self.register.port).encode())
        if not (self.broker / REVOKED_FILE).exists():
            _write(self.broker / REVOKED_FILE, authority.revocation_list((), utc_now()))

    def _save(self) -> None:
        # Rights first: a crash between the two leaves a device that can do too little, or none that can do too much.
        _write(self.broker / RULES_FILE, self.rules().document().encode(), _SECRET)
        _write(self.path / REGISTER_FILE, self.register.model_dump_json(indent=1).encode())

    def _authority(self) -> CertificateAuthority:
        folder = self.path / "authority"
        return CertificateAuthority.load(_read(folder / CA_FILE), _read(folder / "ca.key"), self._passphrase)

    def _known(self, name: str) -> Device:
        try:
            return self.register.devices[name]
        except KeyError:
            known = ", ".join(sorted(self.register.devices))
            raise ConfigError(name, f"is not in this fleet ({known})") from None

    def _check_cameras(self, device: Device) -> None:
        if device.kind is not DeviceKind.EDGE:
            return
        for camera in device.cameras:
            owner = self.register.owner_of(camera)
            if owner is not None and owner.name != device.name:
                raise ConfigError(
                    device.name,
                    f"camera {camera} belongs to site {owner.name} already; a camera's name is unique in a fleet: "
                    "rename one of them",
                )


def _load(path: Path) -> tuple[Register, int]:
    """A register, and the version that its file has."""
    content = _read(path)
    try:
        document = json.loads(content)
    except ValueError as error:
        raise ConfigError(str(path), f"damaged: is not JSON: {error}") from None
    version = document.get("version", 1) if isinstance(document, dict) else 1
    if type(version) is not int or not 1 <= version <= REGISTER_VERSION:
        raise ConfigError(
            str(path),
            f"is a register of version {echo(version)}, this Latentbus reads versions 1 to {REGISTER_VERSION}: "
            "use the Latentbus that wrote it, or a newer one",
        )
    if version == 1 and isinstance(document, dict):
        document = from_version_1(document)
    try:
        # As JSON: what a file says of a number or a time is read strictly, as text.
        return Register.model_validate_json(json.dumps(document)), version
    except ValidationError as error:
        details = error.errors()[0]
        where = ".".join(str(part) for part in details["loc"])
        problem = f"{where}: {problem_text(dict(details))}" if where else problem_text(dict(details))
        raise ConfigError(str(path), f"damaged: {problem}") from None


def _unused(path: Path) -> Path:
    """This path, or the first like it that does not exist."""
    found, number = path, 1
    while found.exists():
        number += 1
        found = path.with_stem(f"{path.stem}-{number}")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            str(path), f"cannot be read: {error.strerror}. `latentbus broker certs` makes a fleet folder"
        ) from None


def _write(path: Path, content: bytes, mode: int = _PUBLIC) -> None:
    """Replace a file at once; a secret is never readable by others, not even for a moment."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
