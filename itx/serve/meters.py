# SPDX-License-Identifier: Apache-2.0
"""What the server counts, in the text format that Prometheus reads."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)  # bounds of the histograms' buckets


class Meters:
    """The meters of one server; a process may hold several."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, help: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"itx_serve_{name}", help, labels, registry=registry)

        def gauge(name: str, help: str) -> Gauge:
            return Gauge(f"itx_serve_{name}", help, registry=registry)

        def seconds(name: str, help: str) -> Histogram:
            return Histogram(f"itx_serve_{name}", help, registry=registry, buckets=SECONDS)

        self.requests = counter("requests", "HTTP requests answered", ("path", "status"))
        self.prompt_tokens = counter("prompt_tokens", "tokens of prompts that were read")
        self.completion_tokens = counter("completion_tokens", "tokens that were written")
        self.cancelled = counter("cancelled", "asks that were dropped because the client had left")
        self.repeated = counter("repeated", "requests answered by an earlier one with their key")
        self.failures = counter("engine_failures", "turns of the engine that failed")
        self.waiting = gauge("waiting", "asks in the queue")
        self.answering = gauge("answering", "asks that have a row")
        self.open = gauge("open_requests", "requests to complete that are being answered")
        self.first_token = seconds(
            "first_token_seconds", "from an ask's arrival to its first token"
        )
        self.whole = seconds("request_seconds", "from a request to the end of its answer")

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def totals(self) -> dict[str, int]:
        """Counts for a summary: of all HTTP requests, and of tokens."""
        samples = [s for metric in self.requests.collect() for s in metric.samples]
        requests = sum(s.value for s in samples if s.name.endswith("_total"))
        counted = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cancelled": self.cancelled,
        }
        sums = {
            name: sum(s.value for m in c.collect() for s in m.samples if s.name.endswith("_total"))
            for name, c in counted.items()
        }
        return {"requests": int(requests)} | {name: int(value) for name, value in sums.items()}
