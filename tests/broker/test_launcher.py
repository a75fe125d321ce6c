"""The launcher of a private Mosquitto."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from broker_config import launcher
from broker_config.launcher import LocalBroker, find_mosquitto
from pipeline.config.broker_settings import BrokerSettings
from schemas.errors import BrokerStartError, StateError
from tests.bus.support import connected, take
from tests.mosquitto import mosquitto_version

pytestmark = pytest.mark.broker


def accepts(broker: LocalBroker) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((broker.host, broker.port)) == 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_is_ready_when_it_is_entered_and_gone_when_left() -> None:
    with LocalBroker() as broker:
        assert broker.running
        assert accepts(broker)
        assert "running" in broker.log_path.read_text()
        pid, directory = broker.pid, broker.directory
    assert not alive(pid)
    assert not directory.exists()
    assert not accepts(broker)
    broker.stop()  # harmless
    with pytest.raises(StateError):
        _ = broker.pid


async def test_it_works_inside_an_event_loop() -> None:
    async with LocalBroker() as broker:
        assert accepts(broker)
    assert not broker.running


def test_two_brokers_do_not_meet() -> None:
    with LocalBroker() as one, LocalBroker() as other:
        assert one.port != other.port
        assert one.directory != other.directory


def test_it_is_started_once() -> None:
    with LocalBroker() as broker, pytest.raises(StateError):
        broker.start()


def test_it_comes_back_on_the_same_port_after_a_kill_and_after_a_stop(tmp_path: Path) -> None:
    with LocalBroker(directory=tmp_path) as broker:
        port = broker.port
        broker.kill()
        assert not broker.running
        assert not accepts(broker)
        broker.restart()
        assert (broker.port, accepts(broker)) == (port, True)
        broker.restart()
        assert (broker.port, accepts(broker)) == (port, True)
        assert broker.log_path.read_text().count(" running") == 3
    assert tmp_path.exists()  # a directory that was given stays


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_frozen_broker_can_be_stopped() -> None:
    with LocalBroker() as broker:
        pid = broker.pid
        os.kill(pid, signal.SIGSTOP)
    assert not alive(pid)


@pytest.mark.parametrize("persistent", [False, True])
async def test_only_a_persistent_broker_remembers(tmp_path: Path, persistent: bool) -> None:
    with LocalBroker(directory=tmp_path, persistent=persistent) as broker:
        settings = BrokerSettings(port=broker.port)
        async with connected(settings, "a") as bus:
            await bus.publish("state", b"kept", qos=1, retain=True)
        broker.restart()
        async with connected(settings, "b", "state", "mark") as bus:
            await bus.publish("mark", b"", qos=1)
            assert (await take(bus, 1))[0].topic == ("state" if persistent else "mark")


def test_what_the_broker_says_is_in_the_error() -> None:
    broker = LocalBroker(options={"no_such_option": "1"})
    with pytest.raises(BrokerStartError, match="ended with status") as caught:
        broker.start()
    assert "no_such_option" in caught.value.log
    assert "no_such_option" in str(caught.value)
    assert not broker.running
    with pytest.raises(StateError):
        _ = broker.directory  # the temporary one is gone


def test_a_given_port_that_is_taken_is_an_error() -> None:
    with LocalBroker() as first, pytest.raises(BrokerStartError, match="Address already in use"):
        LocalBroker(port=first.port).start()


def test_a_chosen_port_that_was_taken_meanwhile_is_chosen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalBroker() as first:
        free = launcher._free_port()
        ports = iter([first.port, free])
        monkeypatch.setattr(launcher, "_free_port", lambda: next(ports))
        with LocalBroker() as second:
            assert second.port == free


def test_a_program_that_never_gets_ready_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\necho $$ > " + str(tmp_path / "pid") + "\necho thinking >&2\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv(launcher.BINARY_ENVIRONMENT_VARIABLE, str(program))
    with pytest.raises(BrokerStartError, match=r"within 0\.5 s") as caught:
        LocalBroker(start_timeout_s=0.5).start()
    assert caught.value.log == "thinking"
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("platform", "command"),
    [("linux", "apt-get install mosquitto"), ("darwin", "brew install mosquitto"), ("sunos5", "mosquitto.org")],
)
def test_a_missing_mosquitto_is_an_error_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, platform: str, command: str
) -> None:
    monkeypatch.delenv(launcher.BINARY_ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(launcher, "SEARCH_DIRECTORIES", ())
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(BrokerStartError, match=command):
        find_mosquitto()


def test_it_is_found_outside_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.delenv(launcher.BINARY_ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(launcher, "SEARCH_DIRECTORIES", (str(tmp_path / "empty"), str(tmp_path)))
    assert find_mosquitto() == program


def test_a_named_program_that_cannot_be_run_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(launcher.BINARY_ENVIRONMENT_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(BrokerStartError, match=launcher.BINARY_ENVIRONMENT_VARIABLE):
        find_mosquitto()


def test_its_version_is_known() -> None:
    assert mosquitto_version(find_mosquitto()) >= (2, 0, 0)
    with pytest.raises(BrokerStartError, match="does not say its version"):
        mosquitto_version(Path("/bin/echo"))
