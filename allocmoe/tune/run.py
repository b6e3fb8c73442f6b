"""`allocmoe tune`: profile, fit, allocate, measure the few candidates that could win, and time the best for real.

What a candidate loses, and what it spends, is measured as if it decoded `batch` sequences; the fitted cost of a step
then says how fast it should be. Each method is measured at a few budgets on little text, then at the one budget where
its curve grants the wish, on more; half of them go on (successive halving), and the last ones are timed in one
session and measured on text that chose nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from allocmoe import mini, records
from allocmoe.data.text import Windows, windows
from allocmoe.engines.hf import HFEngine, load_tokenizer
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.measure.wide import shape_of
from allocmoe.methods import allocate, needs
from allocmoe.profile.run import as_record, kept
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.records.step import StepCost
from allocmoe.spec import MoESpec
from allocmoe.tune.candidates import PAIRS, Field, Tried, grid, methods_for, nearest, ranked, refined
from allocmoe.tune.ends import End, at_least, granted, order, written
from allocmoe.tune.size import WINDOW, Size, size_for
from allocmoe.tune.timing import Timed, aside, speedup
from allocmoe.tune.wish import Wish

GUARD = 1.02
"""A plan is chosen to be this much faster than asked for: predictions err by a few percent."""
FINALISTS = 3


@dataclass(frozen=True)
class Model:
    """What is tuned, on which text and machine; see the verb's options."""

    name: str
    engine: str = "transformers"
    shape: str | None = None
    text: str = "mini-test"
    calibration: str = "mini-train"
    dtype: str = "float32"
    device: str = "cpu"
    methods: tuple[str, ...] = ()
    items: int = 0
    tasks: tuple[str, ...] = ()
    data_root: str | None = None
    seed: int = 0

    @property
    def timed(self) -> str:
        """The model whose steps are timed: an embedded one's wide shape, any other model itself."""
        return self.shape or shape_of(self.name) or self.name


def tune(
    model: Model, wish: Wish, out: Path, *, batch: int = 8, minutes: float = 30, progress: bool = True
) -> dict[str, Any]:
    """Find the plan; write `plan.json`, `records.jsonl` and `profile.json` into `out`. See the verb.

    Returns the JSON document: `met`, the chosen plan's `method`, `budget`, `promised`, `measured` and `plan` (path),
    and `ends`, one per wish.

    Raises AllocMoEError for a model, text or engine that does not work; an unmet wish is no error.
    """
    return _search(model, wish, out, batch, minutes, progress).run()


def check(model: Model, wish: Wish, batch: int, minutes: float) -> None:
    """AllocMoEError for what `tune` would refuse before it measures anything; nothing is written."""
    _search(model, wish, Path(), batch, minutes, False).inputs()


def _search(model: Model, wish: Wish, out: Path, batch: int, minutes: float, progress: bool) -> _Search:
    return _Search(model, wish, out, batch, time.monotonic() + 60 * minutes, size_for(minutes, batch), progress)


@dataclass(frozen=True)
class _Search:
    model: Model
    wish: Wish
    out: Path
    batch: int
    end: float
    size: Size
    progress: bool

    def run(self) -> dict[str, Any]:
        model, size = self.model, self.size
        names, timed, (choosing, final, calibration) = self.inputs()
        self._say(f"1 of 4: the cost of a decode step of {self.batch} sequences on {model.timed}, {model.engine}")
        priced = timed.cost(size.fit)
        cost = StepCost.from_metrics(priced.metrics)
        engine = HFEngine.load(mini.resolve(model.name), model.dtype, model.device)
        self._say(f"2 of 4: what {', '.join(names)} need to know of {model.name}")
        known = self._profile(engine, names, calibration, cost.pair > 0)
        suite = self._suite(engine) if self.wish.metric == "accuracy" else None
        field = Field(
            engine, known, cost, self.batch, self.wish, self._path, suite, model.items if suite else 0, model.seed,
            self.progress,
        )  # fmt: skip
        self._say("3 of 4: candidates")
        curves = self._curves(field, names, _rows(choosing, size.windows[0]))
        self._say("4 of 4: the finalists, timed")
        measured = [
            self._ends(about, aim, field, curves, choosing, final, timed) for about, aim in self._aims().items()
        ]  # fmt: skip
        off = float(priced.metrics["held_out_error"])
        return written(self.out, self.wish, self.batch, timed, measured, curves, off)

    def _suite(self, engine: Any, lm: Any = None) -> TaskSuite:
        return TaskSuite(engine, list(self.model.tasks) or None, lm=lm, data_root=self.model.data_root)

    @property
    def _path(self) -> Path:
        return self.out / "records.jsonl"

    def inputs(self) -> tuple[list[str], Timed, tuple[Windows, Windows, Windows]]:
        """The methods to try, what is timed, and the texts; AllocMoEError for anything wrong with them."""
        model, folder = self.model, mini.resolve(self.model.name)
        names = methods_for(self.wish, model.methods, self.batch)
        timed = Timed(model.engine, model.timed, model.dtype, model.device, model.seed, self._path, self.progress)
        timed.check(model.name, MoESpec.from_folder(folder))
        if self.wish.metric == "accuracy":
            self._suite(None, lm=object())  # refuses what it does not know; nothing is asked
        return names, timed, self._texts(load_tokenizer(folder))

    def _say(self, text: str) -> None:
        if self.progress:
            left = max(0.0, self.end - time.monotonic()) / 60
            tqdm.write(f"{text} ({left:.0f} minutes left)", file=sys.stderr)

    def _aims(self) -> dict[str, float | None]:
        """What each end of the front aims at: a predicted speedup, or None for the limit on the loss."""
        found: dict[str, float | None] = {}
        if self.wish.speedup:
            found["speedup"] = self.wish.speedup * GUARD
        if self.wish.limit:
            found["loss"] = None
        return found

    def _texts(self, tokenizer: Any) -> tuple[Windows, Windows, Windows]:
        """Windows to choose on, others to judge by, and those of the profile."""
        _, more, most = self.size.windows
        whole = windows(tokenizer, self.model.text, more + most, WINDOW)
        calibration = windows(tokenizer, self.model.calibration, self.size.calibration, WINDOW)
        left = (len(whole.ids) - more) // self.batch * self.batch
        if left < self.batch:
            raise AllocMoEError(
                f"the text {self.model.text} has {len(whole.ids)} windows of {WINDOW} tokens: tuning for {self.batch} "
                f"sequences needs {more + self.batch}; give a longer one"
            )
        if len(calibration.ids) < self.batch:
            raise AllocMoEError(
                f"the text {self.model.calibration} has {len(calibration.ids)} windows of {WINDOW} tokens: tuning for "
                f"{self.batch} sequences needs as many; give a longer one"
            )
        return _rows(whole, more), _rows(whole, more + left, more), calibration

    def _profile(self, engine: HFEngine, names: Sequence[str], text: Windows, priced: bool) -> Sensitivity | None:
        """What the methods need; `priced`: pairs cost something here, so Alloc-D may want fewer."""
        wanted = needs(names) + ([PAIRS] if "alloc-d" in names and priced and self.size.pairs else [])
        if not wanted:
            return None
        found = kept(
            engine, text, 8, self.out / "profile.json", quantities=wanted, seed=self.model.seed,
            progress=self.progress, decode_batch=self.batch,
        )  # fmt: skip
        if not any(r.details.get("digest") == found.digest for r in records.resume(self._path) if r.about == "profile"):
            records.append(self._path, as_record(engine, found))
        return found

    def _curves(self, field: Field, names: Sequence[str], text: Windows) -> dict[str, list[Tried]]:
        """Each method at a few budgets; methods for which no time is left have none.

        Raises AllocMoEError if no method has a plan.
        """
        spec, found = field.engine.spec, {}
        reserve = 0.4 * (self.end - time.monotonic())
        for number, name in enumerate(names):
            if number and self.end - time.monotonic() < reserve:
                self._say(f"no time for {', '.join(names[number:])}")
                break
            made = {p.digest: p for b in grid(spec.layers, spec.top_k) if (p := field.plan(name, b))}
            if made:
                found[name] = field.tried(list(made.values()), text)
        if not found:
            raise AllocMoEError(f"none of {', '.join(names)} has a plan for this model: name other methods")
        return found

    def _ends(
        self, about: str, aim: float | None, field: Field, curves: dict[str, list[Tried]], choosing: Windows,
        final: Windows, timed: Timed,
    ) -> list[End]:  # fmt: skip
        """Measured plans at one end of the front, the best first. Where the timing says that predictions were too
        good, aim further."""
        ends: list[End] = []
        for turn in range(self.size.rounds):
            finalists = self._halved(field, curves, choosing, aim)
            ends += self._measured(about, field, finalists, final, timed)
            best = min(ends, key=order(about, self.wish))
            late = turn + 1 == self.size.rounds or self.end - time.monotonic() < 60
            if aim is None or late or at_least(best.speedup, self.wish.speedup or 0):
                break
            further = aim * max(1.01, min(e.tried.speedup / e.speedup.estimate for e in ends[-len(finalists) :]))
            if best.tried.speedup < aim:
                break
            aim = further
        return sorted(ends, key=order(about, self.wish))

    def _halved(self, field: Field, curves: dict[str, list[Tried]], text: Windows, aim: float | None) -> list[Tried]:
        """Each method's plan for the aim, on more and more text; the better half goes on."""
        layers = field.engine.spec.layers
        budgets = {name: refined(curve, self.wish, aim, layers) for name, curve in curves.items()}
        made = [field.plan(name, b) or nearest(curves[name], b) for name, b in budgets.items() if b is not None]
        plans = list({plan.digest: plan for plan in made}.values())
        few = self.size.windows[0]
        going = ranked(field.tried(plans, _rows(text, few)), self.wish, aim)
        going = going[: max(FINALISTS, (len(going) + 1) // 2)]
        if len(text.ids) > few:
            going = ranked(field.tried([t.plan for t in going], text), self.wish, aim)
        return going[:FINALISTS]

    def _measured(self, about: str, field: Field, finalists: Sequence[Tried], text: Windows, timed: Timed) -> list[End]:
        """Finalists on text that chose nothing, and timed."""
        judged = field.tried([t.plan for t in finalists], text)
        spec = field.engine.spec
        whole = allocate("original", spec, field.engine.fingerprint, spec.original_budget)
        with aside(field.engine):
            first, *rest = timed.session([whole, *(t.plan for t in finalists)], self.size.final)
        found = []
        for tried, held, record in zip(finalists, judged, rest, strict=True):
            fast, prefill = speedup("decode", record, first), speedup("prefill", record, first)
            met = granted(self.wish, fast, held.loss)
            found.append(End(about, tried, fast, prefill, held.loss, met, (held.original, held.record, first, record)))
        return found


def _rows(text: Windows, stop: int, start: int = 0) -> Windows:
    """Some windows of a text."""
    return Windows(text.ids[start:stop], text.name, {kind: tokens[start:stop] for kind, tokens in text.kinds.items()})
