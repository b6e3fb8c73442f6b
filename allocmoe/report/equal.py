"""Methods at equal distinct experts: what each of them loses there is read off its own line of measured plans."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from allocmoe.allocation.published import predicted_speedup
from allocmoe.records import Record
from allocmoe.report.compare import Comparison
from allocmoe.report.groups import Group
from allocmoe.report.rows import attempt
from allocmoe.report.style import BASELINE, ORIGINAL
from allocmoe.stats import UNKNOWN, Interval, mean, perplexity_ratio

LEADER = "alloc-moe-refill"
"""The method that is compared with the others."""


@dataclass(frozen=True)
class Line:
    """The plans of one method that were measured as if decoding, and the unchanged model, at which every line ends.

    Attributes:
        distinct: [n] rising, distinct experts per layer and step.
        nll: [n][windows], mean negative log-likelihood per token, nats; or another mean per token, see `settings`.
    """

    distinct: tuple[float, ...]
    nll: tuple[Sequence[float], ...]

    def at(self, distinct: float) -> list[float] | None:
        """[windows]: the losses at so many distinct experts, straight between the two measured plans beside it.

        The logarithm of a perplexity is the mean of these, so that its line is straight there too. None outside of
        what was measured.
        """
        place = bisect_left(self.distinct, distinct)
        if place == len(self.distinct) or (place == 0 and self.distinct[0] != distinct):
            return None
        if self.distinct[place] == distinct:
            return list(self.nll[place])
        low, high = self.distinct[place - 1 : place + 1]
        share = (distinct - low) / (high - low)
        return [(1 - share) * a + share * b for a, b in zip(*self.nll[place - 1 : place + 1], strict=True)]

    def least(self, loss: float, tokens: Sequence[float]) -> float | None:
        """The fewest distinct experts at which the line loses no more than that, in nats per token of all windows.

        None where no measured plan loses so little, or where the one with the fewest experts already does: then it may
        be fewer.
        """
        means = [fmean(nll, tokens) for nll in self.nll]
        place = next((i for i, mean in enumerate(means) if mean <= loss), 0)
        if place == 0:
            return None
        (low, high), (worse, better) = self.distinct[place - 1 : place + 1], means[place - 1 : place + 1]
        return low + (high - low) * (worse - loss) / (worse - better)


@dataclass(frozen=True)
class Setting:
    """All methods at the distinct experts that uniform touches at one budget, and at what it loses there.

    Attributes:
        budget: uniform's.
        distinct: per layer and step.
        needed: per method, see `Line.least`; those whose lines cross uniform's loss.
        whole: distinct experts per layer and step of the unchanged model.
        nll: per method, see `Line.at`; those that were measured on both sides of it.
        tokens: [windows], of each window.
    """

    budget: int
    distinct: float
    needed: dict[str, float]
    whole: float
    nll: dict[str, list[float]]
    tokens: Sequence[float]

    def gained(self, distinct: float) -> float:
        """The unchanged model's MoE layers over these with so many distinct experts in time, by OEA's published cost on
        an H100: a prediction, not a measurement."""
        return predicted_speedup([self.whole], [distinct])

    def ratio(self, method: str, other: str = ORIGINAL) -> Interval:
        """Perplexity of a method over another's, paired by window; UNKNOWN where one was not measured there."""
        if method not in self.nll or other not in self.nll:
            return UNKNOWN
        return attempt(perplexity_ratio, self.nll[method], self.nll[other], self.tokens)[0]

    def difference(self, method: str, other: str) -> Interval:
        """What a method loses less what another does, nats per token, paired by window; UNKNOWN as above."""
        if method not in self.nll or other not in self.nll:
            return UNKNOWN
        return attempt(mean, [a - b for a, b in zip(self.nll[method], self.nll[other], strict=True)], self.tokens)[0]

    def compared(self, method: str) -> list[Comparison]:
        """A method against each other one, but for the unchanged model, which touches more."""
        others = [m for m in self.nll if m not in (method, ORIGINAL)] if method in self.nll else []
        return [Comparison(method, other, self.budget, self.ratio(method, other)) for other in others]


def settings(group: Group, loss: str = "nll") -> list[Setting]:
    """Of a quality group that was measured as if decoding: one per budget of uniform, downwards; else none.

    `loss` is what is read off the lines, by its name among the samples: nll, or kl from the unchanged model.
    """
    counted = [r for r in group.records if r.spent.get("distinct_per_layer") and r.samples.get(loss)]
    whole = next((r for r in counted if r.method == ORIGINAL), None)
    if group.setup.get("passes") != "decode" or whole is None:
        return []
    tokens = whole.samples["window_tokens"]
    points: dict[str, dict[float, Sequence[float]]] = {}
    for r in counted:
        if r.samples.get("window_tokens") == tokens:
            points.setdefault(r.method or "", {})[fmean(r.spent["distinct_per_layer"])] = r.samples[loss]
    (end,) = points.pop(ORIGINAL).items()
    lines = {method: _line({**dict([end]), **found}) for method, found in points.items()}
    return [_setting(r, fmean(whole.spent["distinct_per_layer"]), lines, tokens, end[1], r.samples[loss])
            for r in reversed(counted) if r.method == BASELINE]  # fmt: skip


def _setting(
    uniform: Record, whole: float, lines: dict[str, Line], tokens: Sequence[float], original: Sequence[float],
    lost: Sequence[float],
) -> Setting:  # fmt: skip
    distinct, loss = fmean(uniform.spent["distinct_per_layer"]), fmean(lost, tokens)
    read = {method: line.at(distinct) for method, line in lines.items()}
    needed = {method: line.least(loss, tokens) for method, line in lines.items() if method != BASELINE}
    return Setting(
        budget=uniform.budget or 0,
        distinct=distinct,
        needed={BASELINE: distinct, **{m: d for m, d in needed.items() if d is not None}},
        whole=whole,
        nll={ORIGINAL: list(original), **{m: nll for m, nll in read.items() if nll is not None}},
        tokens=tokens,
    )


def _line(points: dict[float, Sequence[float]]) -> Line:
    ordered = sorted(points.items())
    return Line(tuple(d for d, _ in ordered), tuple(nll for _, nll in ordered))
