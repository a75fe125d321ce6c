"""What `make` says on a machine that lacks something; commands of the system are replaced by ones that only report."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of commands that is the whole PATH: the tools of the scripts, and what a test adds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "dirname", "rm"):
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    command(folder, "id", "echo 0")
    return folder


def command(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def run(script: str, machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The folders that a script adds to PATH by itself are those of this machine.
    copies = machine.parent / "scripts"
    copies.mkdir(exist_ok=True)
    for path in SCRIPTS.glob("*.sh"):
        (copies / path.name).write_text(path.read_text().replace("PATH=$PATH:", "IGNORED="))
    return subprocess.run(
        ["/bin/sh", str(copies / script), *arguments],
        env={"PATH": str(machine)},
        cwd=machine.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_python_at_all(machine: Path) -> None:
    done = run("make_venv.sh", machine, "python3", "venv")
    assert done.returncode == 1
    assert "no python3 on PATH. Install Python 3.11 or later" in done.stderr


def test_python_too_old(machine: Path) -> None:
    command(machine, "python3", 'case "$*" in *version_info*) exit 1;; *) echo "Python 3.10.4";; esac')
    done = run("make_venv.sh", machine, "python3", "venv")
    assert done.returncode == 1
    assert "python3 is Python 3.10.4; Python 3.11 or later is needed" in done.stderr


WITHOUT_VENV = (
    'case "$*" in *ensurepip*) exit 1;; *%d.%d*) echo 3.12;; *version_info*) exit 0;; *) echo "Python 3.12.1";; esac'
)


def test_a_missing_venv_module_is_installed_or_its_package_named(machine: Path) -> None:
    command(machine, "python3", WITHOUT_VENV)
    done = run("make_venv.sh", machine, "python3", "venv")
    assert done.returncode == 1
    assert "Run: apt-get install python3.12-venv" in done.stderr
    command(machine, "apt-get", 'echo "apt-get $*"; exit 100')
    done = run("make_venv.sh", machine, "python3", "venv")
    assert "apt-get install -y --no-install-recommends python3.12-venv\napt-get update" in done.stdout
    assert "Run: apt-get install python3.12-venv" in done.stderr


def test_mosquitto_that_is_there_is_left_alone(machine: Path) -> None:
    command(machine, "mosquitto", "exit 0")
    command(machine, "mosquitto_pub", "exit 0")
    command(machine, "apt-get", "echo called")
    done = run("install_mosquitto.sh", machine)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_clients_are_installed_beside_a_broker_and_never_in_the_way(machine: Path) -> None:
    asked = machine.parent / "asked"
    command(machine, "mosquitto", "exit 0")
    command(machine, "apt-get", f'echo "$*" >> {asked}')
    assert run("install_mosquitto.sh", machine).returncode == 0
    assert asked.read_text() == "install -y --no-install-recommends mosquitto-clients\n"
    command(machine, "apt-get", "exit 100")
    done = run("install_mosquitto.sh", machine)
    assert done.returncode == 0
    assert "apt-get install mosquitto-clients" in done.stdout


@pytest.mark.parametrize("manager", ["apt-get", "brew"])
def test_mosquitto_is_installed_by_the_package_manager(machine: Path, manager: str) -> None:
    target = machine / "mosquitto"
    command(
        machine,
        manager,
        f'case "$*" in *install*mosquitto*) echo "#!/bin/sh" > {target}; /bin/chmod 755 {target};; esac',
    )
    done = run("install_mosquitto.sh", machine)
    assert done.returncode == 0, done.stderr
    assert target.is_file()


def test_fresh_package_lists_are_fetched_when_the_first_try_fails(machine: Path) -> None:
    target, updated = machine / "mosquitto", machine.parent / "updated"
    body = (
        f'case "$1" in update) echo > {updated};; '
        f'install) [ -f {updated} ] || exit 100; echo "#!/bin/sh" > {target}; /bin/chmod 755 {target};; esac'
    )
    command(machine, "apt-get", body)
    done = run("install_mosquitto.sh", machine)
    assert done.returncode == 0, done.stderr


def test_without_any_way_the_command_is_named(machine: Path) -> None:
    command(machine, "apt-get", "exit 100")
    done = run("install_mosquitto.sh", machine)
    assert done.returncode == 1
    assert "As root, run: apt-get install mosquitto" in done.stderr


def test_a_user_without_sudo_is_told_the_command(machine: Path) -> None:
    command(machine, "id", "echo 1000")
    command(machine, "apt-get", "echo must not be called; exit 0")
    done = run("install_mosquitto.sh", machine)
    assert done.returncode == 1
    assert "must not be called" not in done.stdout
    assert "As root, run: apt-get install mosquitto" in done.stderr


def test_sudo_is_used_when_it_needs_no_password(machine: Path) -> None:
    target = machine / "mosquitto"
    command(machine, "id", "echo 1000")
    command(machine, "true", "exit 0")
    command(machine, "sudo", 'shift; exec "$@"')
    command(machine, "apt-get", f'case "$1" in install) echo "#!/bin/sh" > {target}; /bin/chmod 755 {target};; esac')
    done = run("install_mosquitto.sh", machine)
    assert done.returncode == 0, done.stderr
