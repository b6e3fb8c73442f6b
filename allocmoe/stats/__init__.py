"""Statistics of paired measurements: intervals and tests for a report, shifts for a gate.

`paired` compares two methods within one measurement, `shift` one method in two measurements; `grouped` does both
for accuracies of several tasks, and `sign_flip` tests them.
"""

from allocmoe.stats.grouped import (
    Groups,
    Tasks,
    group_accuracy,
    group_difference,
    group_loss,
    group_mean,
    group_test,
)
from allocmoe.stats.paired import (
    CONFIDENCE,
    RESAMPLES,
    UNKNOWN,
    Interval,
    accuracy,
    holm,
    log_ratio,
    mcnemar,
    mean,
    perplexity_ratio,
)
from allocmoe.stats.shift import (
    ALPHA,
    POWER,
    Shift,
    accuracy_loss,
    mean_rise,
    perplexity_rise,
    session_median,
    slowdown,
    tango,
)

__all__ = [
    "ALPHA",
    "CONFIDENCE",
    "POWER",
    "RESAMPLES",
    "UNKNOWN",
    "Groups",
    "Interval",
    "Shift",
    "Tasks",
    "accuracy",
    "accuracy_loss",
    "group_accuracy",
    "group_difference",
    "group_loss",
    "group_mean",
    "group_test",
    "holm",
    "log_ratio",
    "mcnemar",
    "mean",
    "mean_rise",
    "perplexity_ratio",
    "perplexity_rise",
    "session_median",
    "slowdown",
    "tango",
]
