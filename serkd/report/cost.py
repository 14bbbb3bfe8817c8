"""What a student costs to use, in words."""

from collections.abc import Mapping

from serkd.models.listener import COST_SECONDS


def describe_cost(cost: Mapping[str, float]) -> str:
    """What `measure_student` found, on one line."""
    return (
        f"{cost['parameters'] / 1e6:.2f} M parameters; {COST_SECONDS:g} s of speech: "
        f"{cost['macs'] / 1e6:.0f} M MACs, {1e3 * cost['latency_s']:.1f} ms on one thread "
        f"(real-time factor {cost['real_time_factor']:.4f})"
    )
