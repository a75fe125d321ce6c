"""Metrics of the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client import generate_latest

from latentbus.gateway.models import AlertView, AnswerView
from pipeline.node.answer_metrics import AnswerMetrics
from pipeline.node.loop_lag import LoopLag
from pipeline.node.metrics import Metrics
from pipeline.node.process_health import watch_conditions
from pipeline.node.runtime import software_version
from pipeline.node.traffic_metrics import watch_traffic
from schemas.messages import Answer, QueryOutcome

if TYPE_CHECKING:
    from latentbus.gateway.notify import Notifier
    from latentbus.gateway.rates import Rates
    from latentbus.gateway.service import Gateway


class GatewayMetrics:
    """What the gateway counts.

    Args:
        metrics: the registry.
    """

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self._requests = self.metrics.counter(
            "gateway_requests", "HTTP requests, by route and status", ("route", "status")
        )
        self._heard = self.metrics.counter("gateway_answers_heard", "Answers and outcomes of the fleet", ("outcome",))
        self._answers = AnswerMetrics(self.metrics, "a question of the gateway")
        self.lag = LoopLag(self.metrics)
        self._alerts = self.metrics.counter("gateway_alerts", "Alerts that began", ("rule", "severity"))

    def request(self, route: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()

    def heard(self, message: Answer | QueryOutcome) -> None:
        """An answer or outcome came."""
        self._heard.labels(str(message.outcome or "provisional")).inc()

    def answered(self, view: AnswerView, elapsed_s: float) -> None:
        """A question of the gateway was answered."""
        if view.looks in (None, 1):
            self._answers.first("ad_hoc", elapsed_s)
        if view.outcome is not None:
            self._answers.ended(view.outcome, "ad_hoc", view.reason, elapsed_s=elapsed_s, latents=view.latents)

    def alert(self, alert: AlertView) -> None:
        """An alert began or ended."""
        if alert.ended is None:
            self._alerts.labels(alert.rule, alert.severity).inc()

    def watch(self, gateway: Gateway) -> None:
        """Serve what the gateway counts itself."""
        metrics, store = self.metrics, gateway.store
        metrics.build_info("gateway", software_version())
        watch_traffic(metrics, lambda: gateway.client.traffic)
        watch_conditions(metrics, gateway.system.machine)
        metrics.watch_gauges(
            "pool_frames",
            "Frames that the workers of a pool hold",
            "pool",
            lambda: {pool: load.held for pool, load in gateway.state.pools().items()},
        )
        metrics.watch_gauges(
            "pool_capacity_frames",
            "Frames that the workers of a pool may hold",
            "pool",
            lambda: {pool: load.capacity for pool, load in gateway.state.pools().items()},
        )
        metrics.watch_gauges(
            "pool_workers",
            "Workers of a pool that are online",
            "pool",
            lambda: {pool: load.workers for pool, load in gateway.state.pools().items()},
        )
        metrics.watch_gauges("queue_messages", "What waits", "queue", gateway.queues)
        metrics.ready.set_function(lambda: float(gateway.health().ready))
        metrics.watch_gauge("connected", "1 while connected", lambda: float(gateway.client.connected))
        metrics.watch_counters(
            "session_events", "Events of the protocol session", "event", lambda: gateway.client.counters
        )
        metrics.watch_gauge("gateway_streams", "Streams of events that are open", lambda: float(len(gateway.hub)))
        metrics.watch_counters(
            "gateway_streams_dropped", "Streams that were ended, by reason", "reason", lambda: gateway.hub.counters
        )
        metrics.watch_counters(
            "contained", "Bugs of Latentbus that ended one message", "kind", lambda: gateway.contained
        )
        metrics.watch_counters(
            "gateway_history_outcomes",
            "Outcomes, by what became of them in the history",
            "event",
            lambda: (
                {name: value for name, value in store.figures.items() if name != "size_bytes"} | {"lost": store.lost}
            ),
        )
        metrics.watch_gauge(
            "gateway_history_bytes", "Size of the history", lambda: float(store.figures.get("size_bytes", 0))
        )
        metrics.watch_counters(
            "gateway_repeated_outcomes",
            "Outcomes that came again, the same or another one",
            "kind",
            lambda: {"same": gateway.client.reducer.repeats, "another": gateway.client.reducer.conflicts},
        )
        metrics.watch_gauges(
            "gateway_tables",
            "Entries of what the gateway keeps in memory",
            "table",
            lambda: {**gateway.state.sizes(), **gateway.system.sizes()},
        )
        metrics.watch_gauge(
            "gateway_alerts_going_on",
            "Alerts that go on",
            lambda: float(sum(alert.ended is None for alert in gateway.alerts)),
        )

    def watch_notifier(self, notifier: Notifier) -> None:
        """Serve what became of notifications."""
        self.metrics.watch_counters(
            "gateway_notifications",
            "Notifications, by channel and result",
            ("channel", "result"),
            lambda: notifier.counts,
        )

    def watch_rates(self, rates: Rates, refused: Mapping[str, float]) -> None:
        """Serve what was refused before it reached a route."""
        self.metrics.watch_gauge(
            "gateway_client_budgets", "Budgets of clients that are remembered", lambda: float(rates.clients())
        )
        self.metrics.watch_counters(
            "gateway_refused", "Requests that were refused before any route, by reason", "reason", lambda: refused
        )

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.metrics.registry)
