"""Statistics of paired measurements: intervals and tests for a report, shifts for a gate.

`paired` compares two methods within one measurement, `shift` one method in two measurements.
"""

from allocmoe.stats.paired import (
    CONFIDENCE,
    RESAMPLES,
    UNKNOWN,
    Interval,
    Tasks,
    accuracy,
    group_accuracy,
    group_difference,
    holm,
    log_ratio,
    mcnemar,
    perplexity_ratio,
    pooled,
)
from allocmoe.stats.shift import ALPHA, POWER, Shift, accuracy_loss, perplexity_rise, session_median, slowdown, tango

__all__ = [
    "ALPHA",
    "CONFIDENCE",
    "POWER",
    "RESAMPLES",
    "UNKNOWN",
    "Interval",
    "Shift",
    "Tasks",
    "accuracy",
    "accuracy_loss",
    "group_accuracy",
    "group_difference",
    "holm",
    "log_ratio",
    "mcnemar",
    "perplexity_ratio",
    "perplexity_rise",
    "pooled",
    "session_median",
    "slowdown",
    "tango",
]
