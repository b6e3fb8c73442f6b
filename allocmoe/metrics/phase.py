"""What prefill and decode share: times relative to the unchanged model's in the same session.

A machine drifts between two sessions, and a session's rounds are paired: so a session says one thing, the median
over its rounds of the log-ratio, and one session, that is one start of the engine, is one observation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial

from allocmoe import stats
from allocmoe.errors import AllocMoEError
from allocmoe.metrics.metric import Measured, Measurements, Metric, Tracked, below
from allocmoe.records import Record
from allocmoe.stats import Shift


def metric(phase: str, *tracked: Tracked) -> Metric:
    """The metric of a phase; `tracked` are its figures in asv."""
    return Metric(
        name=phase,
        title=f"{phase} time over the original's",
        about=("speed",),
        unit="%",
        lower=True,
        noise=True,
        margin=3.0,
        minimum=0.02,
        counted="sessions a side",
        value=partial(value, phase),
        compare=partial(compare, phase),
        broken=below,
        shown="{:.3f}x".format,
        figure=speedup,
        relative=True,
        own=(partial(milliseconds, phase), "{:.2f} ms".format),
        tracked=tracked,
    )


def value(phase: str, measured: Measurements) -> float:
    """Time over the original's: the geometric mean over sessions."""
    return math.exp(statistics.fmean(_logs(phase, measured)))


def compare(phase: str, new: Measurements, old: Measurements, alpha: float) -> Shift:
    """The rise of its logarithm between sessions of two commits, see `stats.slowdown`."""
    return stats.slowdown(_logs(phase, new), _logs(phase, old), alpha)


def speedup(relative: float) -> float:
    """The original's time over the method's."""
    return 1 / relative


def milliseconds(phase: str, records: Sequence[Record]) -> float:
    """Of the phase as a whole: the median over sessions of the median over rounds."""
    rounds = [[float(s) for s in r.samples[f"{phase}_s"]] for r in records]
    return 1e3 * statistics.median(statistics.median(r) for r in rounds)


def percent(phase: str, one: Measured) -> list[float]:
    """Time in % of the original's."""
    return [100 * value(phase, [one])]


def _logs(phase: str, measured: Measurements) -> list[float]:
    """[sessions] log(time / original's)."""
    found = []
    for record, original in measured:
        if original is None:
            raise AllocMoEError("its session did not measure the original")
        found.append(stats.session_median(record.samples[f"{phase}_s"], original.samples[f"{phase}_s"]))
    return found
