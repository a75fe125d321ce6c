"""Who a request is: tokens, what each may do, and the token that is made where none is configured."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from latentbus.gateway.errors import ForbiddenError, NotFoundError
from latentbus.gateway.models import SessionView
from pipeline.config.gateway_settings import GatewaySettings, TokenSettings
from schemas.errors import ConfigError

Role: TypeAlias = Literal["viewer", "asker", "operator"]
TOKEN_FILE: Final = "operator.token"  # noqa: S105 - the name of a file
_RANKS: Final[Mapping[Role, int]] = {"viewer": 0, "asker": 1, "operator": 2}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is.

    Attributes:
        name: of its token; None where none is needed.
        role: what it may do.
        cameras: cameras that it is held to; empty for all.
    """

    name: str | None
    role: Role
    cameras: frozenset[str] = frozenset()

    def sees(self, camera: str | None) -> bool:
        """Whether it may know of something about a camera; None stands for what is about none."""
        return not self.cameras or camera in self.cameras

    def check_camera(self, camera: str) -> None:
        """It may know of this camera.

        Raises:
            NotFoundError: it may not; the same words as for a camera that does not exist.
        """
        if not self.sees(camera):
            raise NotFoundError(f"no edge that is online serves camera {camera}")

    def check_role(self, role: Role) -> None:
        """It has this role, or one above.

        Raises:
            ForbiddenError: it has not.
        """
        if _RANKS[self.role] < _RANKS[role]:
            raise ForbiddenError(f"this token is a {self.role}'s; it takes an {role}'s")

    def view(self) -> SessionView:
        """As it is shown."""
        return SessionView(name=self.name, role=self.role, cameras=tuple(sorted(self.cameras)))


ANYBODY: Final = Principal(None, "operator")
"""Whoever asks where no token is needed."""


@dataclass(frozen=True, slots=True)
class Access:
    """The tokens of a gateway.

    Attributes:
        required: whether a token is needed.
        generated: a token that was made just now, to be shown once.
    """

    required: bool
    _by_digest: Mapping[bytes, Principal] = field(repr=False)
    generated: str | None = field(default=None, repr=False)

    def principal(self, token: str | None) -> Principal | None:
        """Whose token this is; None if it is nobody's, or there is none."""
        if not self.required:
            return ANYBODY
        # The lookup tells nothing of a token: it is by its hash.
        return None if token is None else self._by_digest.get(_digest(token))


def access_of(settings: GatewaySettings) -> Access:
    """The tokens that the settings name; one is made, and kept in the state folder, where they name none.

    Raises:
        ConfigError: the file of the token cannot be read or written.
    """
    required = needs_token(settings)
    tokens = dict(settings.tokens)
    generated = None
    by_digest = {_digest(entry.token.get_secret_value()): _principal(name, entry) for name, entry in tokens.items()}
    if required and not tokens:
        stored, new = _stored_token(settings.state_dir)
        by_digest[_digest(stored)] = Principal("generated", "operator")
        generated = stored if new else None
    return Access(required, by_digest, generated)


def needs_token(settings: GatewaySettings) -> bool:
    """Whether a token is needed: as the settings say, else unless it listens on loopback and knows none."""
    if settings.auth is not None:
        return settings.auth
    return bool(settings.tokens) or not is_loopback(settings.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address that is listened on."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _principal(name: str, entry: TokenSettings) -> Principal:
    return Principal(name, entry.role, frozenset(entry.cameras))


def _stored_token(state_dir: Path | None) -> tuple[str, bool]:
    """The operator's token of the state folder, and whether it was made just now."""
    made = secrets.token_urlsafe(32)
    if state_dir is None:
        return made, True
    path = state_dir / TOKEN_FILE
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(f"{made}\n")
        except FileExistsError:
            found = path.read_text(encoding="ascii").strip()
            if not found:
                raise ConfigError(str(path), "is empty: delete it, and another token is made") from None
            return found, False
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be used: {error}; give a writable gateway.state_dir") from None
    return made, True


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
