"""When an answer is an alert. Pure: answers and the time go in, alerts that begin or end come out.

Rules judge the answers to standing questions: ``n`` of the last ``of`` must match. An *unchanged* outcome says that the
last answer held on in every frame since, and counts as so many of them. An alert begins once and ends once, at the
latest after ``max_duration_s``.
What is wrong with the fleet itself is the subject of :mod:`latentbus.gateway.system_alerts`.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from latentbus.gateway.models import AlertView, AnswerView
from pipeline.config.alert_settings import AlertConditionSettings
from pipeline.config.gateway_settings import AlertRuleSettings
from schemas.answer_value import AnswerValue, bare
from schemas.types import Outcome

MAX_WINDOWS: Final = 16_384
"""Rules by camera whose last answers are remembered."""
_JUDGED: Final = (Outcome.ANSWERED, Outcome.DEGRADED, Outcome.UNCHANGED)
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Change:
    """An alert that begins or ends.

    Attributes:
        alert: it; its ``id`` is 0 until it is stored.
        key: names it among those that go on.
        notify: whether people are told.
        channels: who is told; None for all.
    """

    alert: AlertView
    key: str
    notify: bool = True
    channels: tuple[str, ...] | None = None


@dataclass(slots=True)
class _Window:
    """The last answers that a rule has judged at one camera."""

    matches: deque[bool]
    firing: AlertView | None = None
    told_s: float | None = None
    began_s: float = 0.0
    expired: bool = False
    answer: AnswerView | None = None


def matches(rule: AlertConditionSettings, text: str, value: AnswerValue | None = None) -> bool | None:
    """Whether an answer meets a condition; None where it says nothing that can be compared.

    Args:
        rule: the condition.
        text: the answer.
        value: what it says, where the type of its question is known.
    """
    said = bare(text)
    if isinstance(value, bool):
        said = "yes" if value else "no"
    elif isinstance(value, int):
        said = str(value)
    if rule.equals is not None:
        return said == bare(rule.equals)
    if rule.differs is not None:
        return said != bare(rule.differs)
    if rule.contains is not None:
        return rule.contains.casefold() in text.casefold()
    number = _NUMBER.search(said)
    if number is None:
        return None
    return float(number[0]) > rule.above if rule.above is not None else float(number[0]) < (rule.below or 0.0)


@dataclass(slots=True)
class AlertBook:
    """The alerts that go on, and what decides about new ones.

    Attributes:
        rules: by name.
    """

    rules: Mapping[str, AlertRuleSettings]
    _windows: OrderedDict[str, _Window] = field(default_factory=OrderedDict)

    def resume(self, going_on: Iterable[AlertView], now_s: float, wall_s: float | None = None) -> list[Change]:
        """Take over what an earlier process has begun.

        Args:
            going_on: alerts that it has not ended.
            now_s: monotonic time.
            wall_s: seconds since 1970; None: they begin now.

        Returns:
            Those whose rule there is no more: they end.
        """
        over: list[Change] = []
        for alert in going_on:
            if alert.rule in self.rules and alert.camera is not None:
                window = self._window(alert.rule, alert.site, alert.camera)
                window.firing, window.told_s = alert, now_s
                window.began_s = now_s - (0.0 if wall_s is None else max(0.0, wall_s - alert.began))
                window.matches.extend([True] * self.rules[alert.rule].n)
            else:
                over.append(Change(alert, "", notify=False))
        return over

    def going_on(self) -> list[AlertView]:
        """Alerts that have not ended."""
        return [window.firing for window in self._windows.values() if window.firing is not None]

    def stored(self, key: str, alert: AlertView) -> None:
        """An alert that has begun got its number."""
        entry = self._windows.get(key)
        if entry is not None and entry.firing is not None and entry.firing.began == alert.began:
            entry.firing = alert

    def observe(
        self, answer: AnswerView, now_s: float, counts: Callable[[str, str | None], bool] = lambda _rule, _site: True
    ) -> list[Change]:
        """An outcome came. Ad-hoc questions are no matter of a rule, and a frame that waited says nothing of now.

        Args:
            answer: it.
            now_s: monotonic time.
            counts: whether a rule is judged at a site.
        """
        if answer.ad_hoc or answer.late or answer.outcome not in _JUDGED:
            return []
        found: list[Change] = []
        for name, rule in self.rules.items():
            if rule.question != answer.question_id or rule.site not in (None, answer.site):
                continue
            if (rule.cameras and answer.camera not in rule.cameras) or not counts(name, answer.site):
                continue
            window = self._window(name, answer.site, answer.camera)
            if answer.outcome is Outcome.UNCHANGED:
                if window.matches:  # else the answer that it renews was not heard here
                    window.matches.extend([window.matches[-1]] * rule.of)
                    found += self._judge(name, rule, window, answer, now_s)
            elif (match := matches(rule, answer.text, answer.value)) is not None:
                window.matches.append(match)
                window.answer = answer
                found += self._judge(name, rule, window, answer, now_s)
        return found

    def _judge(
        self, name: str, rule: AlertRuleSettings, window: _Window, heard: AnswerView, now_s: float
    ) -> list[Change]:
        key = _window_key(name, heard.site, heard.camera)
        over = window.matches.count(False) >= rule.n
        window.expired = window.expired and not over
        if window.firing is None and not window.expired and window.matches.count(True) >= rule.n:
            cooled = window.told_s is None or now_s - window.told_s >= rule.cooldown_s
            answer = window.answer or heard
            window.began_s = now_s
            window.firing = AlertView(
                id=0,
                rule=name,
                source="answer",
                severity=rule.severity,
                camera=answer.camera,
                site=answer.site,
                text=f"{answer.camera}: {answer.question or answer.question_id} {answer.text}",
                began=heard.at,
                answer=answer,
            )
            if cooled:
                window.told_s = now_s
            return [Change(window.firing, key, cooled, rule.channels)]
        if window.firing is not None and over:
            return [self._end(key, window, rule, heard.at)]
        return []

    def expire(self, now_s: float, wall_s: float) -> list[Change]:
        """End the alerts that have gone on for as long as their rules allow.

        Args:
            now_s: monotonic time.
            wall_s: seconds since 1970.
        """
        found = []
        for key, window in self._windows.items():
            rule = None if window.firing is None else self.rules.get(window.firing.rule)
            if rule is None or rule.max_duration_s is None or now_s - window.began_s < rule.max_duration_s:
                continue
            window.expired = True
            found.append(self._end(key, window, rule, wall_s))
        return found

    def replace(self, rules: Mapping[str, AlertRuleSettings]) -> None:
        """Other rules; what is remembered of the answers before counts for those that look at as many."""
        for key, window in self._windows.items():
            rule = rules.get(key.split("\n")[0].removeprefix("rule "))
            if rule is not None and rule.of != window.matches.maxlen:
                window.matches = deque(window.matches, rule.of)
        self.rules = rules

    def end_unless(self, counts: Callable[[str, str | None], bool], wall_s: float) -> list[Change]:
        """End the alerts whose rules do not count any more, or are gone.

        Args:
            counts: whether a rule is judged at a site.
            wall_s: seconds since 1970.
        """
        found = []
        for key, window in self._windows.items():
            firing = window.firing
            if firing is not None and not (firing.rule in self.rules and counts(firing.rule, firing.site)):
                window.matches.clear()
                found.append(self._end(key, window, self.rules.get(firing.rule), wall_s))
        return found

    def _end(self, key: str, window: _Window, rule: AlertRuleSettings | None, wall_s: float) -> Change:
        assert window.firing is not None  # noqa: S101 - who ends it has looked
        ended = window.firing.model_copy(update={"ended": wall_s})
        window.firing = None
        return Change(ended, key, False, None if rule is None else rule.channels)

    def _window(self, rule: str, site: str | None, camera: str) -> _Window:
        key = _window_key(rule, site, camera)
        window = self._windows.pop(key, None) or _Window(deque(maxlen=self.rules[rule].of))
        self._windows[key] = window
        if len(self._windows) > MAX_WINDOWS:
            self._windows.popitem(last=False)
        return window


def _window_key(rule: str, site: str | None, camera: str) -> str:
    return f"rule {rule}\n{site or ''}\n{camera}"
