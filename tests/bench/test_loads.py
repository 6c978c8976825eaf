"""What the tail case reads."""

from prometheus_client import generate_latest

from proxy.metrics import Metrics

from .loads import tokens_obtained


def test_tokens_are_counted_by_the_metrics() -> None:
    """The case knows by the proxy's own metrics that tokens were refreshed."""
    metrics = Metrics()
    metrics.token_generation.set(7)

    assert tokens_obtained(generate_latest(metrics.registry).decode()) == 7
