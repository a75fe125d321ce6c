"""The file of a fleet, as each process reads it: its own part, with the defaults filled in.

``edge`` is a site in a file of its own, ``worker`` a worker. The file of a fleet has ``sites`` and ``pools`` by name;
the process that is one of them finds it as ``edge`` or ``worker``. What a section leaves out is taken from

1. ``defaults.site``, ``defaults.camera``, ``defaults.question`` and ``defaults.alert``,
2. the same below ``defaults`` of the site,

the later one first; sections within a section are merged key by key, lists are not. Questions that stand at the top are
those of every site whose cameras ask them; a site may change a part of one under the same id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import yaml

from pipeline.config.settings_file import Location, SettingsFile
from schemas.errors import ConfigError

MAX_EXPANDED_VALUES: Final = 200_000
"""With the defaults filled in: a few lines may stand for much in each of many cameras."""

_SHARED: Final = ("defaults", "questions", "profiles")
_OF_A_SITE: Final = ("camera", "question", "alert")
_Layer: TypeAlias = tuple[Location, Any]
"""Where a value stands, and the value."""


@dataclass(frozen=True, slots=True)
class Part:
    """What of a file is read.

    Attributes:
        kind: who reads it; ``all`` leaves nothing out, ``client`` all but the broker.
        name: site of an edge, pool of a worker; None for the only one of the file.
    """

    kind: Literal["all", "edge", "worker", "gateway", "client"] = "all"
    name: str | None = None

    @property
    def keys(self) -> tuple[str, str]:
        """Section of the process, and of all of its kind."""
        return ("worker", "pools") if self.kind == "worker" else ("edge", "sites")

    def prune(self, root: yaml.MappingNode) -> None:
        """Take out what other processes read: their variables need not be set here, nor their secrets be known."""
        unused = {
            "all": (),
            "edge": ("worker", "pools", "gateway"),
            "worker": ("edge", "sites", "gateway", *_SHARED),
            "gateway": ("worker", "pools"),
            "client": ("edge", "sites", "worker", "pools", "gateway", *_SHARED),
        }[self.kind]
        root.value = [pair for pair in root.value if pair[0].value not in unused]
        if self.kind not in ("edge", "worker"):
            return
        for key, section in root.value:
            if key.value == self.keys[1] and isinstance(section, yaml.MappingNode):
                names = [str(name.value) for name, _ in section.value if isinstance(name, yaml.ScalarNode)]
                wanted = self.name or (names[0] if len(names) == 1 else None)
                if wanted in names:
                    section.value = [pair for pair in section.value if str(pair[0].value) == wanted]

    def may_lack(self, location: Location) -> bool:
        """Whether the value is of a process on another machine, which alone knows the variables in it."""
        return self.kind == "gateway" and location[:1] in (("sites",), ("edge",))


def read_part(path: Path, part: Part) -> SettingsFile:
    """Read a file, take the part of a process, and fill in the defaults.

    Raises:
        ConfigError: it cannot be read, or has no such part.
    """
    file = SettingsFile.read(path, prune=part.prune, may_lack=part.may_lack)
    if part.kind == "gateway":
        known = {key: _known(value) if key in ("sites", "edge") else value for key, value in file.values.items()}
        file = replace(file, values=known)
    return _Expansion(file).expanded(part)


@dataclass(slots=True)
class _Expansion:
    file: SettingsFile
    origins: dict[Location, Location] = field(default_factory=dict)

    def expanded(self, part: Part) -> SettingsFile:
        values = self.file.values
        for one, many in (("edge", "sites"), ("worker", "pools")):
            if values.get(one) is not None and _section(values, many):
                problem = f"a file has {one} or {many}, not both: move it below {many}"
                raise ConfigError(self._where((one,)), problem)
        made = {key: value for key, value in values.items() if key not in ("sites", "pools", *_SHARED)}
        if "defaults" in values:
            made["defaults"] = values["defaults"]
        if "edge" in values:
            made["edge"] = self._site(("edge",), ("edge",), values["edge"])
        named = {
            "sites": {
                name: self._named("sites", name, "site", self._site(("sites", name), ("sites", name), section))
                for name, section in _section(values, "sites").items()
            },
            "pools": {
                name: self._named("pools", name, "pool", section) for name, section in _section(values, "pools").items()
            },
        }
        for key, sections in named.items():
            if not isinstance(values.get(key, {}), dict):
                made[key] = values[key]
            elif sections:
                made[key] = sections
        if part.kind in ("all", "gateway"):
            self._shared(made)
        if part.kind in ("edge", "worker"):
            self._choose(part, made)
        return replace(self.file, values=made, origins=self.origins)

    def _shared(self, made: dict[str, Any]) -> None:
        """Questions that every site may ask: wrong ones are reported, whoever asks them."""
        values = self.file.values
        if "profiles" in values:
            made["profiles"] = values["profiles"]
        if "questions" in values:
            sources: dict[Location, Any] = {(): values}
            made["questions"] = values["questions"]
            if isinstance(values["questions"], dict):
                made["questions"] = {
                    name: self._question(("questions", name), name, sources) for name in values["questions"]
                }

    def _choose(self, part: Part, made: dict[str, Any]) -> None:
        """The one of the named sections that is this process, as its own section."""
        one, many = part.keys
        sections, option = made.pop(many, {}), {"sites": "--site", "pools": "--pool"}[many]
        if not isinstance(sections, dict):
            raise ConfigError(self._where((many,)), "must be a section of keys and values")
        if made.get(one) is not None:
            key, default = ("site", None) if one == "edge" else ("pool", "main")
            own = _section(made, one).get(key, default)
            if part.name is not None and own is not None and own != part.name:
                raise ConfigError(self._where((one,)), f"the {key} is {own}, not {part.name}")
            return
        if not sections:
            return
        names = ", ".join(sorted(map(str, sections)))
        if part.name is None and len(sections) > 1:
            raise ConfigError(self._where((many,)), f"name one of its {many} with {option}: {names}")
        name = part.name or next(iter(sections))
        if name not in sections:
            raise ConfigError(self._where((many,)), f"no {name} below {many}; it has {names}")
        made[one] = sections[name]
        for location, origin in list(self.origins.items()):
            if location[:2] == (many, name):
                self.origins[one, *location[2:]] = origin
        self.origins[one,] = (many, name)

    def _named(self, many: str, name: str, key: str, section: Any) -> Any:
        """A section that has its own name, as it has in a file of its own."""
        if section is None:
            section = {}
        if not isinstance(section, dict):
            return section
        if section.get(key, name) != name:
            raise ConfigError(self._where((many, name, key)), f"is the name of its section, {name}: leave it out")
        return {key: name, **section}

    def _site(self, target: Location, origin: Location, section: Any) -> Any:
        """A site with its defaults filled in."""
        if not isinstance(section, dict):
            return section
        values = self.file.values
        sources = {(): values, origin: section}
        own = {key: value for key, value in section.items() if key != "defaults"}
        made = self._merged(target, [*self._defaults("site", {(): values}), (origin, own)])
        assert isinstance(made, dict)  # noqa: S101 - the last layer is one
        self._check_defaults((*origin, "defaults"), section.get("defaults", {}))
        if isinstance(made.get("cameras"), dict):
            made["cameras"] = {
                name: self._merged(
                    (*target, "cameras", name),
                    [
                        *self._defaults("camera", sources),
                        ((*origin, "cameras", name), {} if camera is None else camera),
                    ],
                )
                for name, camera in made["cameras"].items()
            }
        profiles = [(("profiles",), values.get("profiles")), ((*origin, "profiles"), section.get("profiles"))]
        if given := [layer for layer in profiles if layer[1] is not None]:
            made["profiles"] = self._merged((*target, "profiles"), given)
        asked = {question for camera in _section(made, "cameras").values() for question in _asked(camera)}
        shared = [name for name in _section(values, "questions") if name in asked]
        if shared or isinstance(made.get("questions"), dict):
            ids = dict.fromkeys((*shared, *_section(made, "questions")))
            made["questions"] = {name: self._question((*target, "questions", name), name, sources) for name in ids}
        return made

    def _check_defaults(self, location: Location, defaults: Any) -> None:
        """Of a site: it has none for sites."""
        if not isinstance(defaults, dict):
            raise ConfigError(self._where(location), "must be a section of keys and values")
        for key, values in defaults.items():
            if key not in _OF_A_SITE:
                problem = f"unknown key; known here: {', '.join(_OF_A_SITE)}"
                raise ConfigError(self._where((*location, key)), problem)
            if not isinstance(values, dict):
                raise ConfigError(self._where((*location, key)), "must be a section of keys and values")

    def _question(self, target: Location, name: str, sources: Mapping[Location, Any]) -> Any:
        """A question with its defaults: of the fleet, of the site, and as the fleet has it."""
        own = [
            ((*origin, "questions", name), _section(values, "questions")[name])
            for origin, values in sources.items()
            if isinstance(_section(values, "questions").get(name), dict)
        ]
        if not own:  # what stands there is no section, and is refused as that
            return next(_section(values, "questions").get(name) for values in list(sources.values())[::-1])
        made = self._merged(target, [*self._defaults("question", sources), *own])
        if isinstance(made, dict) and isinstance(made.get("alert"), dict):
            layers = [*self._defaults("question", sources), *own]
            alerts = [((*origin, "alert"), value["alert"]) for origin, value in layers if "alert" in value]
            made["alert"] = self._merged((*target, "alert"), [*self._defaults("alert", sources), *alerts])
        return made

    def _defaults(self, kind: str, sources: Mapping[Location, Any]) -> list[_Layer]:
        """Layers of defaults, the weakest first."""
        return [
            ((*origin, "defaults", kind), _section(values, "defaults")[kind])
            for origin, values in sources.items()
            if isinstance(_section(values, "defaults").get(kind), dict)
        ]

    def _merged(self, target: Location, layers: Sequence[_Layer]) -> Any:
        """Values laid over each other, the strongest last: sections key by key, anything else as a whole."""
        origin, value = layers[-1]
        self.origins[target] = origin
        if len(self.origins) > MAX_EXPANDED_VALUES:
            raise ConfigError(str(self.file.path), f"more than {MAX_EXPANDED_VALUES} values, defaults filled in")
        if not isinstance(value, dict):
            return value
        mappings = _from_the_last_section(layers)
        made = {}
        for key in dict.fromkeys(key for _, section in mappings for key in section):
            below = [((*place, key), section[key]) for place, section in mappings if key in section]
            made[key] = self._merged((*target, key), below)
        return made

    def _where(self, location: Location) -> str:
        line = self.file.lines.get(location)
        key = ".".join(map(str, location))
        return f"{self.file.path}: {key}" if line is None else f"{self.file.path}:{line}: {key}"


def _known(values: Any) -> Any:
    """Settings of sites for a gateway, without what names a variable that is not set here, unless it must be there."""
    if not isinstance(values, dict):
        return values
    return {
        key: _known(value)
        for key, value in values.items()
        if key in ("source", "text") or not (isinstance(value, str) and "${" in value)
    }


def _from_the_last_section(layers: Sequence[_Layer]) -> list[_Layer]:
    """The sections at the end of the layers: what is no section hides those before it."""
    kept: list[_Layer] = []
    for layer in reversed(layers):
        if not isinstance(layer[1], dict):
            break
        kept.append(layer)
    return kept[::-1]


def _section(values: Any, key: str) -> dict[str, Any]:
    found = values.get(key) if isinstance(values, Mapping) else None
    return found if isinstance(found, dict) else {}


def _asked(camera: Any) -> Iterator[str]:
    questions = camera.get("questions") if isinstance(camera, Mapping) else None
    yield from (question for question in questions if isinstance(question, str)) if isinstance(questions, list) else ()
