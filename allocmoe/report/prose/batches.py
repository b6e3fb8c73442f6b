"""Tables of what other batch sizes do to a plan, as if so many sequences were decoded together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import fmean

from allocmoe.allocation.published import predicted_speedup
from allocmoe.errors import AllocMoEError, shown
from allocmoe.records import Record
from allocmoe.report.prose.forms import percent, percents, table
from allocmoe.report.prose.sources import Sources, at
from allocmoe.report.rows import perplexity_ratio
from allocmoe.report.style import ORIGINAL, TIMES, name, rank
from allocmoe.stats import Interval

EACH = ", made for each"
Row = tuple[str, str]
"""A method, and what its plans were made for, in words; empty where that is no batch size."""


def batch(sources: Sources, file: str, model: str, share: str, made: str) -> str:
    """Perplexity over the unchanged model's in %, and distinct experts per layer and step, by batch size, at a share of
    the activations.

    A method whose plans are made for a batch size has two rows: its plan for `made`, used at every size, and those for
    each, where those were measured.
    """

    def cell(record: Record, whole: Record) -> str:
        if record is whole:
            return f"{_touched(whole):.1f} experts"
        rise = record.metrics["perplexity"] / whole.metrics["perplexity"] - 1
        return f"{percent(rise, sign=True)} % at {_touched(record):.1f}"

    return _by_batch(sources, file, model, share, made, cell)


def predicted(sources: Sources, file: str, model: str, share: str, made: str) -> str:
    """The speedup of the MoE layers that a published cost predicts from the counts, by batch size; rows as `batch`."""

    def cell(record: Record, whole: Record) -> str:
        counts = [r.spent["distinct_per_layer"] for r in (whole, record)]
        return f"{predicted_speedup(*counts):.2f}{TIMES}"

    return _by_batch(sources, file, model, share, made, cell)


def held(sources: Sources, file: str, method: str, share: str, made: str) -> str:
    """Perplexity under a method's plan for one batch size over that under its plan for each other size, with the paired
    interval, and the distinct experts of both; a row per model."""
    rows, sizes = [], []
    for model in dict.fromkeys(r.model for r in sources.records(file)):
        among = [r for r in sources.records(file) if (r.model, r.method) == (model, method) and at(r, share)]
        found = {(r.details["origin"]["batch"], r.setup["text_batch"]): r for r in among}
        sizes = sorted(size for made_for, size in found if made_for == size and str(size) != made)
        pairs = [(found[int(made), size], found[size, size]) for size in sizes]
        cells = [f"{_change(a, b)}; {_touched(a):.1f} and {_touched(b):.1f}" for a, b in pairs]
        rows.append([model, *cells])
    return table([f"{name(method)} at {share}, sequences", *map(str, sizes)], rows)


def _change(a: Record, b: Record) -> str:
    found = perplexity_ratio(a, b)[0]
    return percents(Interval(*(v - 1 for v in found)), True, sign=True)


def _by_batch(
    sources: Sources, file: str, model: str, share: str, made: str, cell: Callable[[Record, Record], str]
) -> str:
    among = [r for r in sources.records(file) if r.about == "quality" and r.model == model]
    mine = [r for r in among if r.method == ORIGINAL or at(r, share)]
    if not mine:
        raise AllocMoEError(f"{file} has no quality of {shown(model)}")
    found = {(row, r.setup["text_batch"]): r for r in mine for row in _rows(r, made)}
    sizes = sorted({size for (method, _), size in found if method != ORIGINAL})
    wholes = {size: found[(ORIGINAL, ""), size] for size in sizes}
    told = Counter(row for row, _ in found)
    rows = []
    for row in sorted((r for r in told if r[1] != EACH or told[r] > 1), key=lambda row: (rank(row[0]), row[1])):
        method, words = row
        label = "unchanged" if method == ORIGINAL else name(method) + words
        cells = [cell(found[row, size], wholes[size]) if (row, size) in found else "-" for size in sizes]
        rows.append([label, *cells])
    return table([f"{model} at {share}, sequences", *map(str, sizes)], rows)


def _rows(record: Record, made: str) -> list[Row]:
    """The rows that a record stands in: those of one plan at all sizes, and of a plan for each, may share one."""
    method, size = record.method or "", record.details["origin"].get("batch")
    if size is None:
        return [(method, "")]
    alike = {f", made for {made}": str(size) == made, EACH: size == record.setup["text_batch"]}
    return [(method, words) for words, true in alike.items() if true]


def _touched(record: Record) -> float:
    return fmean(record.spent["distinct_per_layer"])


BATCHES: dict[str, Callable[..., str]] = {"batch": batch, "batch-held": held, "batch-predicted": predicted}
