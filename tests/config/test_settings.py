"""Settings: one YAML, precise errors, secrets from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.settings import LatentbusSettings, load_settings, require_edge, require_worker
from pipeline.config.settings_file import SettingsFile
from pipeline.config.worker_settings import WorkerSettings
from schemas.errors import ConfigError
from schemas.types import AnswerType

MINIMAL = """\
edge:
  site: north
  cameras:
    gate:
      source: clips/gate.mp4
      questions: [q1]
  questions:
    q1: {text: "is there a red car?", answer_type: yes_no}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def problem_of(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(folder, text))
    return str(caught.value)


def test_minimal_file_gets_the_documented_defaults(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, MINIMAL))
    edge = require_edge(settings, tmp_path)
    assert (settings.broker.host, settings.broker.port, settings.broker.tls) == ("127.0.0.1", 1883, None)
    assert (edge.pool, edge.uplink_kbps, edge.codec) == ("main", None, None)
    assert (edge.metrics_host, WorkerSettings().metrics_host) == ("127.0.0.1", "127.0.0.1")
    assert (edge.cameras["gate"].interval_s, edge.cameras["gate"].loop) == (1.0, True)
    assert edge.cameras["gate"].priority == 1.0
    assert edge.questions["q1"].answer_type is AnswerType.YES_NO
    assert edge.questions["q1"].deadline_ms == 10_000
    assert settings.worker is None


def test_an_empty_file_is_all_defaults_and_has_no_sections(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    settings = load_settings(path)
    with pytest.raises(ConfigError, match="no edge section"):
        require_edge(settings, path)
    with pytest.raises(ConfigError, match="no worker section"):
        require_worker(settings, path)


def test_relative_paths_count_from_the_file_and_other_sources_stay(tmp_path: Path) -> None:
    text = MINIMAL + "  codec: ../codec\n  state_dir: /var/lib/latentbus\nworker: {vlm: ./vlm}\n"
    text = text.replace("questions: [q1]\n", "questions: [q1]\n    yard: {source: 'test:7'}\n", 1)
    settings = load_settings(write(tmp_path, text))
    edge, worker = require_edge(settings, tmp_path), require_worker(settings, tmp_path)
    assert edge.cameras["gate"].source == str(tmp_path / "clips/gate.mp4")
    assert edge.cameras["yard"].source == "test:7"
    assert edge.codec == tmp_path / "../codec"
    assert edge.state_dir == Path("/var/lib/latentbus")
    assert worker.vlm == str(tmp_path / "vlm")


def test_a_hub_id_is_no_path_unless_a_folder_of_that_name_stands_beside_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "worker: {vlm: vendor/vlm-256m}\n")
    assert require_worker(load_settings(path), path).vlm == "vendor/vlm-256m"
    (tmp_path / "vendor" / "vlm-256m").mkdir(parents=True)
    assert require_worker(load_settings(path), path).vlm == str(tmp_path / "vendor/vlm-256m")


def test_each_further_pool_is_a_worker_of_its_own(tmp_path: Path) -> None:
    text = (
        "worker:\n  name: w-1\n  vlm: ./vlm\n  codec: codecs/a\n  recording: {file: log/w.mcap}\n  threads: 2\n"
        "  more_pools:\n    detail: {codec: codecs/b}\n"
        "    other:\n      codec: codecs/c\n      vlm: ./second\n      name: w-9\n"
        "      broker: {tls: {ca_file: ca.crt, cert_file: w-9.crt, key_file: w-9.key}}\n"
    )
    path = write(tmp_path, text)
    worker = require_worker(load_settings(path), path)
    detail, other = worker.of_pool("detail"), worker.of_pool("other")
    assert (detail.pool, detail.name, detail.vlm) == ("detail", "w-1-detail", str(tmp_path / "vlm"))
    assert (detail.codec, detail.threads, detail.more_pools) == (tmp_path / "codecs/b", 2, {})
    assert detail.recording is not None
    assert detail.recording.file == tmp_path / "log/w-detail.mcap"
    assert (other.name, other.vlm, other.codec) == ("w-9", str(tmp_path / "second"), tmp_path / "codecs/c")
    broker = worker.more_pools["other"].broker
    assert broker is not None
    assert broker.tls is not None
    assert broker.tls.key_file == tmp_path / "w-9.key"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("broker:\n  prt: 1\n", "site.yaml:2: broker.prt", "did you mean port?"),
        ("worker: {more_pools: {main: {codec: c}}}\n", "site.yaml:1: worker", "is the pool of worker.pool"),
        ("worker: {more_pools: {b: {vlm: v}}}\n", "worker.more_pools.b.codec", "missing"),
        (
            "worker: {name: w, more_pools: {b: {codec: c, name: w}}}\n",
            "site.yaml:1: worker",
            "w is the name in two pools",
        ),
        (
            f"worker: {{name: {'w' * 30}, more_pools: {{bee: {{codec: c}}}}}}\n",
            "site.yaml:1: worker",
            "give that entry of more_pools a name",
        ),
        ("worker: {precision: fp8}\n", "site.yaml:1: worker.precision", "got 'fp8'"),
        ("broker:\n  port: 99999\n", "site.yaml:2: broker.port", "65535 (got 99999)"),
        ("\nbrokr: {}\n", "site.yaml:2: brokr", "did you mean broker?"),
        ("edge: {site: n}\n", "site.yaml:1: edge.cameras", "missing"),
        (MINIMAL.replace("north", "North 1"), "site.yaml:2: edge.site", "is no name"),
        (MINIMAL.replace("gate:", "Gate:"), "site.yaml:4: edge.cameras.Gate", "is no name"),
        (
            MINIMAL.replace("[q1]", "[q1, q9]"),
            "site.yaml:6: edge.cameras.gate.questions.1",
            "q9 is not defined under edge.questions (q1)",
        ),
        (MINIMAL.replace("[q1]", "[q1, q1]"), "site.yaml:6: edge.cameras.gate.questions", "listed twice: q1"),
        (MINIMAL.replace("[q1]", "[q1]\n      priority: 0"), "site.yaml:7: edge.cameras.gate.priority", "0.01 (got 0)"),
        (MINIMAL.replace("yes_no", "maybe"), "site.yaml:8: edge.questions.q1.answer_type", "got 'maybe'"),
        ("broker: {tls: {cert_file: a.pem}}\n", "site.yaml:1: broker.tls", "belong together"),
        ("broker: {password: hunter2}\n", "site.yaml:1: broker", "set broker.username"),
        ("broker:\n  host: a\n  host: b\n", "site.yaml:3: broker.host", "repeated"),
        ("broker: [1]\n", "site.yaml:1: broker", "a section of keys"),
        ("- 1\n", "site.yaml:1", "must be a mapping"),
        ("broker: {host: a\n", "site.yaml:2", "not YAML"),
        ("broker: !!python/object:os.system {}\n", "site.yaml:1", "not YAML"),
        ("log: {level: loud}\n", "site.yaml:1: log.level", "got 'loud'"),
        ("broker: {host: 'mqtt://broker.example'}\n", "site.yaml:1: broker.host", "write broker.example"),
        ("broker: {host: 'mqtts://b.example:8884'}\n", "broker.host", "write b.example, port 8884 and a tls section"),
        ("broker: {host: 'broker.example:1883'}\n", "broker.host", "write broker.example, port 1883"),
        ("broker: {host: a b}\n", "broker.host", "a host name in ASCII or an address alone"),
        (MINIMAL.replace('"is there a red car?"', '"  "'), "site.yaml:8: edge.questions.q1.text", "is blank"),
        (MINIMAL.replace('"is there a red car?"', "12"), "site.yaml:8: edge.questions.q1.text", "in quotes, '12'"),
        (MINIMAL.replace('"is there a red car?"', "True"), "edge.questions.q1.text", "in quotes, 'True'"),
        (MINIMAL.replace("gate:", "7.5:"), "site.yaml:4: edge.cameras.7.5", "'7.5' is no name"),
    ],
)
def test_each_mistake_is_reported_with_line_key_and_remedy(tmp_path: Path, text: str, where: str, what: str) -> None:
    problem = problem_of(tmp_path, text)
    assert where in problem
    assert what in problem


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, "broker:\n  port: 0\n  keepalive_s: 1\nworker: {threads: 0}\n")
    assert "3 problems" in problem
    assert all(key in problem for key in ("broker.port", "broker.keepalive_s", "worker.threads"))


def test_names_are_texts_as_they_stand_whatever_yaml_1_1_takes_them_for(tmp_path: Path) -> None:
    cameras = "".join(f"    {name}: {{source: a.mp4, loop: no}}\n" for name in ("no", "on", "7", "0x1f", "1e3"))
    text = MINIMAL.replace("\n  questions:", f"\n{cameras}  questions:").replace("[q1]", "[yes, off, q1]")
    text = text.replace("    q1: {", "    yes: {text: a?}\n    off: {text: b?}\n    q1: {")
    edge = require_edge(load_settings(write(tmp_path, text)), tmp_path)
    assert set(edge.cameras) == {"gate", "no", "on", "7", "0x1f", "1e3"}
    assert edge.cameras["gate"].questions == ("yes", "off", "q1")
    assert not edge.cameras["no"].loop


def test_an_unknown_question_is_not_hidden_behind_another_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MINIMAL.replace("[q1]", "[q1, q9]\n      interval_s: -1") + "log: {level: loud}\n"
    problem = problem_of(tmp_path, text)
    assert "3 problems" in problem
    assert "site.yaml:6: edge.cameras.gate.questions.1: q9 is not defined" in problem
    monkeypatch.setenv("LATENTBUS_EDGE__QUESTIONS", '{"q9": {"text": "a car?"}}')
    assert "2 problems" in problem_of(tmp_path, text)


def test_a_host_with_a_password_is_not_repeated(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, "broker: {host: 'mqtt://north:hunter2@broker.example'}\n")
    assert "write broker.example" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize("host", ["localhost", "broker.example.", "192.0.2.7", "::1", "fe80::1%eth0", "my_broker-1"])
def test_hosts_that_are_taken(tmp_path: Path, host: str) -> None:
    assert load_settings(write(tmp_path, f"broker: {{host: '{host}'}}\n")).broker.host == host


def test_a_secret_is_never_repeated_in_an_error_or_a_dump(tmp_path: Path) -> None:
    assert "hunter2" not in problem_of(tmp_path, "broker: {username: u, password: [hunter2]}\n")
    settings = load_settings(write(tmp_path, "broker: {username: u, password: hunter2}\n"))
    assert "hunter2" not in repr(settings)
    assert settings.broker.password is not None
    assert settings.broker.password.get_secret_value() == "hunter2"


def test_variables_are_filled_in_and_an_unset_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_PORT", "2883")
    monkeypatch.delenv("MQTT_HOST", raising=False)
    text = "broker:\n  host: ${MQTT_HOST:-broker.example}\n  port: ${MQTT_PORT}\n"
    settings = load_settings(write(tmp_path, text))
    assert (settings.broker.host, settings.broker.port) == ("broker.example", 2883)
    problem = problem_of(tmp_path, "broker:\n  host: ${MQTT_HOST}\n")
    assert "site.yaml:2: broker.host" in problem
    assert "MQTT_HOST is not set" in problem


def test_the_environment_overrides_the_file_and_is_named_in_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "broker: {host: a, username: u}\n")
    monkeypatch.setenv("LATENTBUS_BROKER__PASSWORD", "from-env")
    settings = load_settings(path)
    assert settings.broker.host == "a"
    assert settings.broker.password is not None
    assert settings.broker.password.get_secret_value() == "from-env"
    monkeypatch.setenv("LATENTBUS_BROKER__PORT", "none")
    with pytest.raises(ConfigError, match="environment variable LATENTBUS_BROKER__PORT"):
        load_settings(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_settings(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_settings(tmp_path)
    binary = tmp_path / "clip.mp4"
    binary.write_bytes(b"\x00\x00\xff\xfe" * 10)
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings(binary)
    binary.write_bytes(b"\x00" * 2_000_000)
    with pytest.raises(ConfigError, match="is this a settings file"):
        load_settings(binary)


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "site.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        settings = SettingsFile.read(path, environment={}).validate(
            LatentbusSettings, env_prefix="LATENTBUS_", env_delimiter="__"
        )
    except ConfigError:
        return
    assert isinstance(settings, LatentbusSettings)


def test_budgets_of_clients_have_defaults_and_names_of_their_own(tmp_path: Path) -> None:
    text = """
edge:
  site: north
  cameras: {gate: {source: "test:1"}}
  client_budget: {kbps: 4}
  client_budgets: {gateway: {asks_per_s: 50, burst_asks: 500, open_asks: 200}}
"""
    edge = load_settings(write(tmp_path, text)).edge
    assert edge is not None
    assert (edge.client_budget.asks_per_s, edge.client_budget.burst_asks, edge.client_budget.kbps) == (2.0, 60, 4.0)
    gateway = edge.client_budgets["gateway"]
    assert (gateway.asks_per_s, gateway.burst_asks, gateway.open_asks, gateway.kbps) == (50.0, 500, 200, 8.0)
    assert "open_asks" in problem_of(tmp_path, text.replace("200", "257"))


def test_what_is_dumped_can_be_read_again(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, MINIMAL + "worker: {threads: 2}\nlog: {json: true}\n"))
    dumped = yaml.safe_dump(settings.model_dump(mode="json"))
    (tmp_path / "again.yaml").write_text(dumped)
    assert load_settings(tmp_path / "again.yaml") == settings


def test_the_example_of_a_fleet_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MQTT_HOST", raising=False)
    settings = load_settings(Path(__file__).resolve().parents[2] / "examples" / "fleet.yaml")
    assert (set(settings.sites), set(settings.pools)) == ({"north", "south"}, {"main"})
    assert settings.sites["south"].questions["person"].deadline_ms == 8000


@pytest.mark.parametrize("name", ["site.yaml", "worker.yaml"])
def test_the_examples_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MQTT_HOST", raising=False)
    settings = load_settings(Path(__file__).resolve().parents[2] / "examples" / name)
    assert (settings.edge is None) == (name == "worker.yaml")
    assert settings.broker.host == "127.0.0.1"
