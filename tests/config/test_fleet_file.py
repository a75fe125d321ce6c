"""One file for a fleet: defaults, the part of each process, and problems where they stand."""

from __future__ import annotations

from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from latentbus.gateway.options import gateway_settings
from pipeline.config import fleet_file
from pipeline.config.alert_rules import question_alerts
from pipeline.config.fleet_file import Part
from pipeline.config.settings import LatentbusSettings, load_settings
from pipeline.config.settings_schema import settings_schema
from schemas.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FLEET = """\
defaults:
  site: {uplink_kbps: 256, ring: {history_s: 30}}
  camera: {interval_s: 5, stall_s: 20, ring: {interval_s: 2}}
  question: {deadline_ms: 4000, risk: 0.02}
  alert: {cooldown_s: 60, n: 2, of: 3}
questions:
  car: {text: "A car?", answer_type: yes_no, alert: {equals: "yes", cooldown_s: 5}}
  unused: {text: "Anything?"}
sites:
  north:
    defaults: {camera: {interval_s: 2}, question: {risk: 0.05}, alert: {severity: info}}
    ring: {memory_mb: 2}
    cameras:
      gate: {source: clips/gate.mp4, interval_s: 1, questions: [car, dog]}
      yard: {source: "test:2", questions: [car], ring: {interval_s: null, before_s: 5}}
    questions:
      car: {deadline_ms: 900}
      dog: {text: "A dog?", answer_type: yes_no}
  south:
    cameras: {dock: {source: "rtsp://${SOUTH_USER}:${SOUTH_PASSWORD}@dock.example/live", questions: [car]}}
pools:
  main: {threads: 2}
  large: {vlm: "${LARGE_VLM}"}
gateway: {port: 8081, tokens: {ann: {token: "${ANNS_TOKEN}"}}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    return path


def site(path: Path, name: str | None = None) -> LatentbusSettings:
    return load_settings(path, part=Part("edge", name))


def test_defaults_come_from_the_fleet_then_the_site_then_the_section_itself(path: Path) -> None:
    edge = site(path, "north").edge
    assert edge is not None
    gate, yard = edge.cameras["gate"], edge.cameras["yard"]
    assert (edge.site, edge.uplink_kbps, edge.ring.history_s, edge.ring.memory_mb) == ("north", 256.0, 30.0, 2.0)
    assert (gate.interval_s, yard.interval_s, gate.stall_s, gate.ring.interval_s) == (1.0, 2.0, 20.0, 2.0)
    assert (yard.ring.interval_s, yard.ring.before_s) == (None, 5.0), "null takes a default back"
    assert gate.source == str(path.parent / "clips/gate.mp4")
    assert list(edge.questions) == ["car", "dog"], "what no camera asks is none of the site's"
    car, dog = edge.questions["car"], edge.questions["dog"]
    assert (car.text, car.deadline_ms, car.risk, dog.deadline_ms) == ("A car?", 900, 0.05, 4000)
    assert car.alert is not None
    assert (car.alert.cooldown_s, car.alert.n, car.alert.severity, dog.alert) == (5.0, 2, "info", None)


def test_a_process_needs_only_the_variables_of_its_own_part(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert site(path, "north").gateway is None
    with pytest.raises(ConfigError, match=r"fleet.yaml:20: sites.south.cameras.dock.source: .*SOUTH_USER is not set"):
        site(path, "south")
    worker = load_settings(path, part=Part("worker", "main")).worker
    assert worker is not None
    assert (worker.pool, worker.threads) == ("main", 2)
    with pytest.raises(ConfigError, match=r"pools.large.vlm: .*LARGE_VLM"):
        load_settings(path, part=Part("worker", "large"))
    with pytest.raises(ConfigError, match=r"gateway.tokens.ann.token: .*ANNS_TOKEN"):
        load_settings(path, part=Part("gateway"))
    monkeypatch.setenv("ANNS_TOKEN", "a-token-of-sixteen-or-more")
    served = load_settings(path, part=Part("gateway"))
    assert set(served.sites) == {"north", "south"}, "a gateway knows the questions of all, and no password"
    text = path.read_text().replace("  south:\n", "  south:\n    uplink_kbps: ${SOUTH_KBPS}\n")
    path.write_text(text)
    assert load_settings(path, part=Part("gateway")).sites["south"].uplink_kbps == 256.0
    assert served.sites["south"].cameras["dock"].source.startswith("rtsp://${SOUTH_USER}")
    assert load_settings(path, part=Part("client")).sites == {}


def test_the_alerts_of_questions_are_rules_of_the_gateway(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNS_TOKEN", "a-token-of-sixteen-or-more")
    rules = question_alerts(load_settings(path, part=Part("gateway")))
    assert {name: (rule.site, rule.question, rule.cooldown_s, rule.severity) for name, rule in rules.items()} == {
        "north/car": ("north", "car", 5.0, "info"),
        "south/car": ("south", "car", 5.0, "warning"),
    }
    gateway = gateway_settings(path, None, None, None, None).gateway
    assert gateway is not None
    assert (set(gateway.alerts.rules), gateway.port) == ({"north/car", "south/car"}, 8081)


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (Part("edge"), "fleet.yaml:9: sites: name one of its sites with --site: north, south"),
        (Part("edge", "west"), "fleet.yaml:9: sites: no west below sites; it has north, south"),
        (Part("worker"), "pools: name one of its pools with --pool: large, main"),
    ],
)
def test_a_process_must_know_which_part_is_its_own(
    path: Path, part: Part, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SOUTH_USER", "SOUTH_PASSWORD", "LARGE_VLM"):
        monkeypatch.setenv(name, "x")
    with pytest.raises(ConfigError) as caught:
        load_settings(path, part=part)
    assert problem in str(caught.value)


def test_the_only_site_of_a_file_needs_no_name_and_another_is_no_match(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text('sites: {north: {cameras: {gate: {source: "test:1"}}}}\npools: {main: }\n')
    edge = site(path).edge
    assert edge is not None
    assert edge.site == "north"
    worker = load_settings(path, part=Part("worker")).worker
    assert worker is not None
    assert worker.pool == "main"
    path.write_text('edge: {site: north, cameras: {gate: {source: "test:1"}}}\n')
    with pytest.raises(ConfigError, match="the site is north, not south"):
        site(path, "south")


def test_the_environment_overrides_the_own_part(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTBUS_EDGE__UPLINK_KBPS", "32")
    edge = site(path, "north").edge
    assert edge is not None
    assert edge.uplink_kbps == 32.0


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("stall_s: 20", "stal_s: 20", "fleet.yaml:3: defaults.camera.stal_s: unknown key; did you mean stall_s?"),
        ("risk: 0.05", "risk: 5", "fleet.yaml:11: sites.north.defaults.question.risk: must be at most 1.0 (got 5)"),
        ("deadline_ms: 900", "deadline_ms: 9", "fleet.yaml:17: sites.north.questions.car.deadline_ms: must be at"),
        ("[car, dog]", "[car, cow]", "fleet.yaml:14: sites.north.cameras.gate.questions.1: cow is not defined"),
        ("threads: 2", "treads: 2", "fleet.yaml:22: pools.main.treads: unknown key; did you mean threads?"),
        ("sites:", "seites:", "fleet.yaml:9: seites: unknown key; did you mean sites?"),
        ('"Anything?"', "7", "fleet.yaml:8: questions.unused.text: must be a text: put it in quotes, '7'"),
        ("  camera: {interval_s: 5", "  cameras: {interval_s: 5", "defaults.cameras: unknown key; did you mean camera"),
        ("{camera: {interval_s: 2}", "{site: {threads: 2}", "north.defaults.site: unknown key; known here: camera"),
        ("{camera: {interval_s: 2}", "{camera: 2", "fleet.yaml:11: sites.north.defaults.camera: must be a section"),
        ("equals: \"yes\"", "above: 3", "fleet.yaml:7: questions.car: an alert of a yes_no question"),
        ("n: 2, of: 3", "n: 1, of: 3", "questions.car.alert: 1 of 3: n must be more than half"),
        ("cooldown_s: 5}", "channels: [x]}", "fleet.yaml:7: questions.car.alert.channels.0: x is no webhook"),
        ("gateway:", "edge: {site: a}\ngateway:", "fleet.yaml:24: edge: a file has edge or sites, not both"),
        ("    ring: {me", "    site: east\n    ring: {me", "sites.north.site: is the name of its section, north"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_where_it_stands_and_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, where: str
) -> None:
    for name in ("SOUTH_USER", "SOUTH_PASSWORD", "LARGE_VLM", "ANNS_TOKEN"):
        monkeypatch.setenv(name, "x" * 16)
    path.write_text(FLEET.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    problems = str(caught.value).splitlines()
    assert sum(where in line for line in problems) == 1, problems


def test_what_is_shown_can_be_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOUTH_USER", "SOUTH_PASSWORD", "LARGE_VLM", "ANNS_TOKEN"):
        monkeypatch.setenv(name, "x" * 16)
    settings = load_settings(path, part=Part("all"))
    assert set(settings.sites) == {"north", "south"}
    shown = settings.model_dump(mode="json", exclude={"gateway"})
    (path.parent / "again.yaml").write_text(yaml.safe_dump(shown))
    again = load_settings(path.parent / "again.yaml")
    assert (again.sites, again.pools, again.questions) == (settings.sites, settings.pools, settings.questions)


def test_defaults_do_not_grow_without_bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_file, "MAX_EXPANDED_VALUES", 20)
    with pytest.raises(ConfigError, match="more than 20 values, defaults filled in"):
        site(path, "north")


# ---- the schema -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["examples/fleet.yaml", "examples/site.yaml", "examples/worker.yaml",
                                  "docker/edge.yaml", "docker/worker.yaml"])  # fmt: skip
def test_the_schema_takes_the_files_of_the_project(name: str) -> None:
    values = yaml.safe_load((ROOT / name).read_text())
    jsonschema.Draft202012Validator(settings_schema()).validate(values)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("threads: 2", "treads: 2"),
        ("interval_s: 1,", "interval_s: -1,"),
        ("answer_type: yes_no", "answer_type: maybe"),
        ("{severity: info}", "{severity: loud}"),
        ("{risk: 0.05}", "{rissk: 0.05}"),
        ("sites:", "seites:"),
    ],
)
def test_the_schema_refuses_what_the_settings_refuse(old: str, new: str) -> None:
    validator = jsonschema.Draft202012Validator(settings_schema())
    assert validator.is_valid(yaml.safe_load(FLEET))
    assert not validator.is_valid(yaml.safe_load(FLEET.replace(old, new, 1)))


def test_every_key_of_the_schema_says_what_it_is() -> None:
    schema = settings_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    lacking = [
        f"{name}.{key}"
        for name, section in {"": schema, **schema["$defs"]}.items()
        for key, value in section.get("properties", {}).items()
        if "description" not in value and "$ref" not in value and name != "DefaultsSettings"
    ]
    assert lacking == []
