"""Tokens: whose they are, what they may do, and the one that is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentbus.gateway.access import ANYBODY, TOKEN_FILE, Principal, access_of, is_loopback
from latentbus.gateway.errors import ForbiddenError, NotFoundError
from pipeline.config.gateway_settings import GatewaySettings
from schemas.errors import ConfigError

LONG = "0123456789abcdef"


def settings(**given: Any) -> GatewaySettings:
    return GatewaySettings.model_validate(given)


@pytest.mark.parametrize(
    ("host", "only_here"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("192.0.2.1", False), ("gate.example", False)],
)  # fmt: skip
def test_loopback(host: str, only_here: bool) -> None:
    assert is_loopback(host) is only_here
    assert access_of(settings(host=host)).required is not only_here


def test_on_loopback_nobody_needs_a_token_unless_one_is_configured() -> None:
    assert access_of(settings()).principal(None) == ANYBODY
    closed = access_of(settings(tokens={"ann": {"token": LONG}}))
    assert closed.principal(None) is None
    assert access_of(settings(auth=True)).required
    assert not access_of(settings(host="0.0.0.0", auth=False)).required


def test_a_token_is_its_holder() -> None:
    access = access_of(
        settings(tokens={"ann": {"token": LONG, "role": "asker", "cameras": ["gate"]}, "bob": {"token": LONG + "x"}})
    )
    assert access.principal(LONG) == Principal("ann", "asker", frozenset({"gate"}))
    assert access.principal(LONG + "x") == Principal("bob", "viewer")
    for wrong in (None, "", LONG[:-1], LONG + "y", "\udcff"):
        assert access.principal(wrong) is None
    assert access.generated is None


def test_roles_and_cameras() -> None:
    viewer, asker = Principal("a", "viewer"), Principal("b", "asker", frozenset({"gate"}))
    viewer.check_role("viewer")
    with pytest.raises(ForbiddenError, match="takes an asker's"):
        viewer.check_role("asker")
    with pytest.raises(ForbiddenError):
        asker.check_role("operator")
    asker.check_camera("gate")
    with pytest.raises(NotFoundError) as refused:
        asker.check_camera("yard")
    assert refused.value.problem == "no edge that is online serves camera yard", "as if it did not exist"
    assert (asker.sees(None), viewer.sees(None)) == (False, True)


def test_a_token_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first = access_of(settings(host="0.0.0.0", state_dir=folder))
    assert first.generated is not None
    assert first.principal(first.generated) == Principal("generated", "operator")
    assert ((folder / TOKEN_FILE).stat().st_mode & 0o777) == 0o600
    again = access_of(settings(host="0.0.0.0", state_dir=folder))
    assert again.generated is None, "shown once"
    assert again.principal(first.generated) == Principal("generated", "operator")
    assert repr(first).count(first.generated) == 0


def test_without_a_folder_it_is_another_one_each_time() -> None:
    first, second = (access_of(settings(host="0.0.0.0")).generated for _ in range(2))
    assert first is not None
    assert first != second


def test_a_file_of_a_token_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / TOKEN_FILE).touch()
    with pytest.raises(ConfigError, match="is empty: delete it"):
        access_of(settings(host="0.0.0.0", state_dir=tmp_path))
    with pytest.raises(ConfigError, match=r"gateway\.state_dir"):
        access_of(settings(host="0.0.0.0", state_dir=tmp_path / TOKEN_FILE))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"tokens": {"a": {"token": "short"}}}, "at least 16"),
        ({"tokens": {"a": {"token": LONG}, "b": {"token": LONG}}}, "two tokens are the same"),
        ({"origins": ["https://x/path"]}, "scheme and host alone"),
        ({"hosts": ["https://x"]}, "host name"),
        ({"port": 0}, "greater than or equal to 1"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        settings(**given)
