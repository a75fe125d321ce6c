"""What goes wrong is logged without what it went wrong with: no password, no latent, no answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgpack
import pytest
import structlog

from pipeline.config.logs import OncePerKind, configure_logging, get_logger
from schemas import topics, wire
from schemas.errors import WireError
from tests.schemas.golden import GOLDEN

SECRET = "hunter2-and-more"
PAYLOAD = bytes(range(0x80, 0xA0))


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail(payload: bytes, password: str) -> None:
    held = {"password": password, "latents": payload}
    raise ValueError(f"{len(held)} things went wrong")


@pytest.mark.parametrize("json", [True, False])
def test_a_traceback_shows_no_local_variable(capsys: pytest.CaptureFixture[str], json: bool) -> None:
    configure_logging("debug", json=json)
    try:
        fail(PAYLOAD, SECRET)
    except ValueError:
        get_logger("a").exception("died")
        logging.getLogger("library").exception("died too")
    written = capsys.readouterr().err
    assert written.count("2 things went wrong") == 2
    assert "fail" in written
    assert SECRET not in written
    assert repr(PAYLOAD)[2:-1] not in written


def broken(message: bytes) -> Iterator[bytes]:
    """Bytes that are no message, but hold what a message may hold."""
    yield message[:-1]
    yield message + PAYLOAD
    if message[:1] == b"{":
        yield message.replace(b'"v":1', b'"v":"' + SECRET.encode() + b'"')
        yield message.replace(b"{", b'{"text":["' + SECRET.encode() + b'"],', 1)
        return
    version, kind, *fields = msgpack.unpackb(message)
    for index in range(len(fields)):
        for wrong in (SECRET, PAYLOAD, {SECRET: PAYLOAD}):
            yield msgpack.packb([version, kind, *fields[:index], wrong, *fields[index + 1 :]])


def test_the_error_of_a_bad_message_does_not_say_what_was_in_it() -> None:
    refused = 0
    with structlog.testing.capture_logs() as logs, OncePerKind(get_logger("a")) as problems:
        for golden in GOLDEN:
            family = topics.parse(golden.topic).family
            for data in broken(wire.encode(golden.message)):
                try:
                    wire.decode(family, data)
                except WireError as error:
                    refused += 1
                    problems.remote_error(str(refused), error)
    assert refused > 50
    written = str(logs)
    assert SECRET not in written
    for length in (4, 8):
        assert repr(PAYLOAD[:length])[2:-1] not in written
        assert PAYLOAD[:length].hex() not in written
