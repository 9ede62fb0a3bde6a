"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_CONFIDENCES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """The numbers of one server, in a registry of their own: several servers in a process do not share them.

    Attributes:
        content_type: Media type of :meth:`text`.
    """

    content_type: str = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ["route", "code"]
        self._requests = Counter("ferry_requests", "Requests answered.", labels, registry=registry)
        self._seconds = Histogram(
            "ferry_request_seconds", "Time to the answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._images = Counter("ferry_images", "Pictures predicted.", registry=registry)
        self._predictions = Counter("ferry_predictions", "Pictures by predicted class.", ["label"], registry=registry)
        self._confidence = Histogram(
            "ferry_confidence",
            "Probability of the predicted class; sum by count is the mean, which falls where faces drift.",
            buckets=_CONFIDENCES,
            registry=registry,
        )
        self._in_flight = Gauge("ferry_requests_in_flight", "Requests for predictions in hand.", registry=registry)
        names = ["name", "version", "digest"]
        self._info = Gauge("ferry_model_info", "1 for the model that answers.", names, registry=registry)
        self._failed = Gauge("ferry_model_refresh_failed", "1 while the model cannot be refreshed.", registry=registry)
        self._model: tuple[str, str, str] | None = None

    def request(self, route: str, code: int, seconds: float) -> None:
        """Counts an answered request.

        Args:
            route: Template of the path, so that unknown paths do not make a series each.
            code: HTTP status.
            seconds: Time from the head of the request to the end of the answer.
        """
        self._requests.labels(route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def predicted(self, labels: Sequence[str], confidences: Sequence[float]) -> None:
        """Counts predictions.

        Args:
            labels: Predicted class of every picture.
            confidences: Its probability, for every picture.
        """
        self._images.inc(len(labels))
        for label, confidence in zip(labels, confidences, strict=True):
            self._predictions.labels(label).inc()
            self._confidence.observe(confidence)

    def in_flight(self, number: int) -> None:
        """Says how many requests for predictions are in hand: read, waiting or at work."""
        self._in_flight.set(number)

    def model(self, name: str, version: str, digest: str) -> None:
        """Says which model answers from now on."""
        before, self._model = self._model, (name, version, digest)
        self._info.labels(*self._model).set(1)
        if before is not None and before != self._model:
            self._info.remove(*before)

    def refresh_failed(self, failed: bool) -> None:
        """Says whether the last look at the registry, or the load after it, failed."""
        self._failed.set(int(failed))

    def text(self) -> bytes:
        """Returns all numbers as Prometheus reads them."""
        return generate_latest(self._registry)
