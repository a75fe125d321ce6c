"""Prometheus metrics of a process: one registry, served over HTTP when a port is configured.

Names begin with ``latentbus_``, units are base units, labels have few values. State machines keep plain counters;
they are read here when somebody scrapes, so that counting costs the hot path nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from schemas.errors import ConfigError
from schemas.messages.base import SCHEMA_VERSION

NAMESPACE = "latentbus"
SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SHARE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """The metrics of one process.

    Attributes:
        registry: what is served.
        ready: 1 once the process does its work; health checks read it.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.ready = self.gauge("ready", "1 once the process does its work")
        self._parts: _Parts | None = None

    def part(self, name: str, value: str) -> Metrics:
        """Metrics of a part of this process, served with the others under a label of their own.

        Its ``ready`` is not served: the process is ready when all of its parts are.

        Args:
            name: of the label; the same for all parts.
            value: that tells this part from the others.
        """
        if self._parts is None:
            self._parts = _Parts(name)
            self.registry.register(self._parts)
        part = Metrics()
        self._parts.registries[value] = part.registry
        return part

    def counter(self, name: str, documentation: str, labels: Iterable[str] = ()) -> Counter:
        """A counter that the caller increments; ``_total`` is added to its name."""
        return Counter(name, documentation, tuple(labels), namespace=NAMESPACE, registry=self.registry)

    def gauge(self, name: str, documentation: str, labels: Iterable[str] = ()) -> Gauge:
        """A gauge that the caller sets."""
        return Gauge(name, documentation, tuple(labels), namespace=NAMESPACE, registry=self.registry)

    def seconds(
        self,
        name: str,
        documentation: str,
        labels: Iterable[str] = (),
        *,
        buckets: tuple[float, ...] = SECONDS_BUCKETS,
    ) -> Histogram:
        """A histogram of durations in seconds."""
        return Histogram(
            name, documentation, tuple(labels), namespace=NAMESPACE, buckets=buckets, registry=self.registry
        )

    def amounts(
        self, name: str, documentation: str, buckets: tuple[float, ...], labels: Iterable[str] = ()
    ) -> Histogram:
        """A histogram of numbers of things."""
        return Histogram(
            name, documentation, tuple(labels), namespace=NAMESPACE, buckets=buckets, registry=self.registry
        )

    def shares(self, name: str, documentation: str, labels: Iterable[str] = ()) -> Histogram:
        """A histogram of numbers from 0 to 1."""
        return Histogram(
            name, documentation, tuple(labels), namespace=NAMESPACE, buckets=SHARE_BUCKETS, registry=self.registry
        )

    def watch_counters(
        self, name: str, documentation: str, label: str | tuple[str, ...], read: Callable[[], Mapping[Any, float]]
    ) -> None:
        """Serve counters that somebody else keeps, one series per key, read at each scrape.

        Args:
            name: metric name without prefix and without ``_total``.
            documentation: help text.
            label: label that carries the key, or several labels for keys that are tuples of their values.
            read: returns the live counters; called from the HTTP thread, which copies them at once.
        """
        self.registry.register(_Watch(f"{NAMESPACE}_{name}", documentation, label, read))

    def watch_gauges(
        self, name: str, documentation: str, label: str | tuple[str, ...], read: Callable[[], Mapping[Any, float]]
    ) -> None:
        """Serve values by label, or by several, that are read at each scrape, from the HTTP thread."""
        self.registry.register(_WatchGauges(f"{NAMESPACE}_{name}", documentation, label, read))

    def watch_gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Serve a value that is read at each scrape, from the HTTP thread."""
        self.registry.register(_WatchGauge(f"{NAMESPACE}_{name}", documentation, read))

    def build_info(self, process: str, software: str, fingerprint: str = "") -> None:
        """Serve what this process is, as labels of a constant 1.

        Args:
            process: its kind.
            software: version of this software.
            fingerprint: first 4 bytes of its codec's fingerprint in hexadecimal; empty for a process without a codec.
        """
        info = self.gauge(
            "build_info", "1; its labels say what this process is", ("process", "software", "wire", "fingerprint")
        )
        info.labels(process, software, str(SCHEMA_VERSION), fingerprint).set(1)

    @contextmanager
    def serve(self, port: int | None, host: str = "127.0.0.1") -> Iterator[int | None]:
        """Serve ``/metrics`` while the context lasts.

        Args:
            port: TCP port, 0 for any free one; None serves nothing.
            host: address to listen on.

        Yields:
            The port, or None.

        Raises:
            ConfigError: the port is taken, or the address is none of this machine.
        """
        if port is None:
            yield None
            return
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise ConfigError(
                "metrics_port", f"cannot listen on {host}, port {port}: {error.strerror or error}"
            ) from None
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Parts(Collector):
    """Families of all parts, those of one name together: an exposition has each of them once."""

    def __init__(self, label: str) -> None:
        self.registries: dict[str, CollectorRegistry] = {}
        self._label = label

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for value, registry in self.registries.items():
            for found in registry.collect():
                if found.name == f"{NAMESPACE}_ready":
                    continue
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.samples.append(sample._replace(labels={**sample.labels, self._label: value}))
        yield from families.values()


class _Watch(Collector):
    def __init__(
        self, name: str, documentation: str, label: str | tuple[str, ...], read: Callable[[], Mapping[Any, float]]
    ) -> None:
        self._name, self._documentation, self._read = name, documentation, read
        self._labels = (label,) if isinstance(label, str) else label

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        # Copying a dict is one step under the interpreter's lock; iterating over a live one is not.
        for key, value in sorted(dict(self._read()).items()):
            family.add_metric([key] if isinstance(key, str) else key, value)
        yield family


class _WatchGauge(Collector):
    def __init__(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        self._name, self._documentation, self._read = name, documentation, read

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(self._name, self._documentation, value=self._read())


class _WatchGauges(Collector):
    def __init__(
        self, name: str, documentation: str, label: str | tuple[str, ...], read: Callable[[], Mapping[Any, float]]
    ) -> None:
        self._name, self._documentation, self._read = name, documentation, read
        self._labels = (label,) if isinstance(label, str) else label

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
        for key, value in sorted(self._read().items()):
            family.add_metric([key] if isinstance(key, str) else key, value)
        yield family
