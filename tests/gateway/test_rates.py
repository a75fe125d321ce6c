"""What one client may cost."""

from __future__ import annotations

import pytest

from latentbus.gateway import rates as rates_module
from latentbus.gateway.errors import RateLimitError
from latentbus.gateway.rates import Rates
from pipeline.config.gateway_settings import GatewayLimitSettings

LIMITS = GatewayLimitSettings(asks_per_s=2, burst_asks=3, requests_per_s=10, burst_requests=5, streams=2)


def taken(rates: Rates, client: str, count: int, now_s: float) -> int:
    done = 0
    for _ in range(count):
        try:
            rates.ask(client, now_s)
            done += 1
        except RateLimitError:
            pass
    return done


def test_a_burst_and_then_the_rate() -> None:
    rates = Rates(LIMITS)
    assert [taken(rates, "a", 10, now_s) for now_s in (0.0, 0.0, 1.0, 100.0)] == [3, 0, 2, 3]


def test_one_client_costs_another_nothing() -> None:
    rates = Rates(LIMITS)
    assert (taken(rates, "a", 10, 0.0), taken(rates, "b", 10, 0.0)) == (3, 3)
    rates.request("a", 0.0)


def test_it_is_said_when_to_come_back() -> None:
    rates = Rates(LIMITS)
    taken(rates, "a", 3, 0.0)
    with pytest.raises(RateLimitError, match="2 questions a second") as refused:
        rates.ask("a", 0.25)
    assert refused.value.retry_after_s == pytest.approx(0.25)


def test_streams_are_counted_while_they_are_open() -> None:
    rates = Rates(LIMITS)
    rates.open_stream("a")
    rates.open_stream("a")
    with pytest.raises(RateLimitError, match="2 streams of this client are open"):
        rates.open_stream("a")
    rates.open_stream("b")
    rates.close_stream("a")
    rates.open_stream("a")
    assert rates.streams() == 3


def test_clients_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates_module, "MAX_CLIENTS", 4)
    rates = Rates(LIMITS)
    for number in range(100):
        rates.request(f"c{number}", 0.0)
    assert rates.clients() == 8
