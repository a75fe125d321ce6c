"""A certificate authority for one fleet: it signs the broker and every device, and nobody else is let in.

Keys are on the curve P-256, which small devices compute fast; extensions follow RFC 5280. A device's name is the common
name of its certificate, which Mosquitto takes as the MQTT user name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker_config.devices import Certificate
from schemas.errors import ConfigError
from schemas.hosts import check_host

AUTHORITY_DAYS: Final = 3650
DEVICE_DAYS: Final = 397
"""Validity of broker and device certificates unless chosen otherwise: a year and a month to renew in."""
REVOCATION_LIST_DAYS: Final = 3650
"""A list that runs out locks the whole fleet out, and a longer one costs nothing: it is replaced whenever it grows."""
CLOCK_SKEW: Final = timedelta(hours=1)
"""Certificates are valid from a little earlier, for devices whose clock is behind."""
MIN_RSA_BITS: Final = 2048

BROKER_NAME: Final = "mosquitto broker"
"""Common name of the broker's certificate; with its spaces no device can have it."""


PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and, unless the device keeps its own, its key.

    Attributes:
        certificate: in PEM form.
        key: private key in PEM form, without a passphrase; None for a signed request.
        serial: its number.
        not_after: when it runs out.
    """

    certificate: bytes
    key: bytes | None
    serial: int
    not_after: datetime


class CertificateAuthority:
    """Signs for one fleet.

    Args:
        certificate: its own.
        key: its private key; whoever has it can be any device.
    """

    def __init__(self, certificate: x509.Certificate, key: PrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, now: datetime, *, days: int = AUTHORITY_DAYS) -> Self:
        """A new authority, which signs itself.

        Args:
            now: start of its validity.
            days: length of its validity.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("latentbus fleet authority")
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes, passphrase: bytes | None) -> Self:
        """An authority from its files.

        Raises:
            ConfigError: they are damaged, do not belong together, or the passphrase is wrong.
        """
        try:
            loaded = x509.load_pem_x509_certificate(certificate)
            private = serialization.load_pem_private_key(key, passphrase)
        except (ValueError, TypeError) as error:
            raise ConfigError("authority", f"cannot be read: {error}") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != loaded.public_key():
            raise ConfigError("authority", "key and certificate do not belong together")
        return cls(loaded, private)

    @property
    def certificate(self) -> bytes:
        """Its certificate in PEM form, which everybody trusts."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def key(self, passphrase: bytes | None) -> bytes:
        """Its private key in PEM form.

        Args:
            passphrase: encrypts it; None leaves it readable.
        """
        return _private_pem(self._key, passphrase)

    def issue_broker(self, hosts: Sequence[str], now: datetime, *, days: int = DEVICE_DAYS) -> Issued:
        """A certificate for the broker.

        Args:
            hosts: names and addresses under which devices reach it.
            now: start of its validity.
            days: length of its validity.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(BROKER_NAME, key.public_key(), now, days, ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        return self._sign(builder, _private_pem(key, None))

    def issue_device(self, name: str, now: datetime, *, days: int = DEVICE_DAYS) -> Issued:
        """A certificate and a new key for a device.

        Args:
            name: of the device.
            now: start of its validity.
            days: length of its validity.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(name, key.public_key(), now, days, ExtendedKeyUsageOID.CLIENT_AUTH)
        return self._sign(builder, _private_pem(key, None))

    def sign_request(self, name: str, request: bytes, now: datetime, *, days: int = DEVICE_DAYS) -> Issued:
        """A certificate for a device that keeps its private key.

        Only the public key is taken from the request: what the device may call itself is not its own choice.

        Args:
            name: of the device.
            request: certificate signing request, PEM.
            now: start of its validity.
            days: length of its validity.

        Raises:
            ConfigError: the request is damaged, or its key too weak or of an unknown kind.
        """
        try:
            parsed = x509.load_pem_x509_csr(request)
            valid = parsed.is_signature_valid
        except (ValueError, InvalidSignature) as error:
            raise ConfigError("signing request", f"cannot be read: {error}") from None
        public = parsed.public_key()
        if not valid:
            raise ConfigError("signing request", "its signature is wrong")
        if isinstance(public, rsa.RSAPublicKey) and public.key_size < MIN_RSA_BITS:
            raise ConfigError("signing request", f"an RSA key needs {MIN_RSA_BITS} bits, it has {public.key_size}")
        if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
            raise ConfigError("signing request", "needs an elliptic-curve, Ed25519 or RSA key")
        return self._sign(self._builder(name, public, now, days, ExtendedKeyUsageOID.CLIENT_AUTH), None)

    def revocation_list(self, certificates: Iterable[Certificate], now: datetime) -> bytes:
        """The list of revoked certificates in PEM form.

        Args:
            certificates: all that were issued; those that were not revoked are left out.
            now: time of the list.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - CLOCK_SKEW)
            .next_update(now + timedelta(days=REVOCATION_LIST_DAYS))
        )
        for one in certificates:
            if one.revoked_at is not None:
                entry = x509.RevokedCertificateBuilder().serial_number(one.serial).revocation_date(one.revoked_at)
                builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(
        self,
        name: str,
        public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
        now: datetime,
        days: int,
        use: x509.ObjectIdentifier,
    ) -> x509.CertificateBuilder:
        # No device certificate outlives its authority.
        until = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(issuer, critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder, key: bytes | None) -> Issued:
        certificate = builder.sign(self._key, hashes.SHA256())
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        return Issued(pem, key, certificate.serial_number, certificate.not_valid_after_utc)


def utc_now() -> datetime:
    """The time, whole seconds as certificates have it."""
    return datetime.now(UTC).replace(microsecond=0)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        try:
            return x509.DNSName(check_host(host))
        except ValueError as error:
            raise ConfigError("--host", str(error)) from None


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: PrivateKey, passphrase: bytes | None) -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
