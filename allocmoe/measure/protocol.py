"""The paper's efficiency protocol (A.2), on either engine.

Random-token prompts, or windows of a text; prefill is one forward pass over them, decode one pass per further token
with a KV cache. The transformers engine is fed what follows the prompt while decoding, the same under every
plan; vLLM feeds itself the most likely one, as a server would. Every plan is run once per round,
the order of plans flipped each round, so that round i of two plans was measured under the same
conditions and can be compared in pairs. Where an engine can, plans take turns within a round, a step each.
"""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from allocmoe import records
from allocmoe.data.text import Windows
from allocmoe.engines import Engine
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.methods import needs
from allocmoe.plan import Plan
from allocmoe.profile.run import profile
from allocmoe.records import Record, views


@dataclass(frozen=True)
class Protocol:
    """Batch size, lengths in tokens, untimed and timed rounds. The defaults are the paper's."""

    batch: int = 8
    prompt: int = 32
    decode: int = 128
    warmups: int = 5
    runs: int = 10

    def __post_init__(self) -> None:
        if min(self.batch, self.prompt, self.decode, self.runs) < 1 or self.warmups < 0:
            raise AllocMoEError(f"the protocol needs at least one of everything, got {asdict(self)}")


def session(
    engine: Engine,
    plans: Sequence[Plan],
    protocol: Protocol,
    seed: int = 0,
    progress: bool = True,
    text: Windows | None = None,
) -> list[Record]:
    """One interleaved session over all plans, as speed records in the order of `plans`.

    Every plan sees the same prompts: the beginnings of windows of `text`, random tokens where there is none.
    Activations and distinct experts are counted in an untimed round.

    Raises AllocMoEError for a text of fewer or shorter windows than the protocol needs, or of another vocabulary.
    """
    tokens = prompts(engine, protocol, seed, text)
    turns = engine.turns(plans, protocol.batch, protocol.batch * protocol.prompt) if engine.stepwise else None
    orders = [list(range(len(plans))), list(reversed(range(len(plans))))]
    samples: list[list[tuple[float, float]]] = [[] for _ in plans]
    rounds = protocol.warmups + protocol.runs
    with tqdm(total=rounds * len(plans), desc=f"bench {engine.name}", unit="run", disable=not progress) as bar:
        for number in range(rounds):
            order = orders[number % 2]
            found = turns.timed(tokens, protocol.prompt, number % 2, bar.update) if turns else _runs(
                engine, plans, tokens, protocol.prompt, order, bar.update
            )  # fmt: skip
            for i, pair in enumerate(found):
                if number >= protocol.warmups:
                    samples[i].append(pair)
    seeds = (0, 1) if turns else (0,)
    total = len(seeds) * len(plans)
    with tqdm(total=total, desc=f"count {engine.name}", unit="run", delay=2, disable=not progress) as bar:
        spent = turns.counted(tokens, protocol.prompt, seeds, bar.update) if turns else [
            _spent(engine, plan, tokens, protocol.prompt, bar.update) for plan in plans
        ]  # fmt: skip
    conditions = {**setup(engine, protocol, seed, text), "session": uuid.uuid4().hex[:12]}
    return [
        _record(engine, plan, protocol, conditions, pairs, counts)
        for plan, pairs, counts in zip(plans, samples, spent, strict=True)
    ]


def _runs(
    engine: Engine, plans: Sequence[Plan], tokens: Tensor, prompt: int, order: Sequence[int], done: Callable[[], Any]
) -> list[tuple[float, float]]:
    """One round of whole runs, one plan after the other."""
    found = {}
    for i in order:
        with engine.using(plans[i]):
            found[i] = engine.timed(tokens, prompt)
        done()
    return [found[i] for i in range(len(plans))]


def _record(
    engine: Engine, plan: Plan, protocol: Protocol, conditions: dict[str, Any], pairs: Sequence[tuple[float, float]],
    counts: dict[str, Any],
) -> Record:  # fmt: skip
    first, rest = [p for p, _ in pairs], [d for _, d in pairs]
    return Record(
        about="speed",
        model=engine.name,
        fingerprint=engine.fingerprint,
        method=plan.method,
        budget=plan.budget,
        plan=plan.digest,
        setup=conditions,
        metrics={
            "prefill_ms": statistics.median(first) * 1e3,
            "decode_ms": statistics.median(rest) * 1e3,
            "tpot_ms": statistics.median(rest) * 1e3 / protocol.decode,
        },
        spent={"per_token": counts["decode"]["per_token"], **counts},
        samples={"prefill_s": first, "decode_s": rest},
        details=plan.described(),
    )


def prompts(engine: Engine, protocol: Protocol, seed: int, text: Windows | None = None) -> Tensor:
    """Token ids [batch, prompt + decode] of a session; AllocMoEError where the text has no such."""
    shape = (protocol.batch, protocol.prompt + protocol.decode)
    if text is None:
        return torch.randint(engine.vocabulary, shape, generator=torch.Generator().manual_seed(seed))
    found = text.ids[: shape[0], : shape[1]]
    if tuple(found.shape) != shape:
        raise AllocMoEError(
            f"{len(text.ids)} windows of {text.ids.shape[1]} tokens are too few for {shape[0]} of {shape[1]}: give a "
            "longer text, or decode fewer tokens"
        )
    if int(found.max()) >= engine.vocabulary:
        raise AllocMoEError(f"the text {text.name} has tokens that {engine.name} lacks: it knows {engine.vocabulary}")
    return found


def setup(engine: Engine, protocol: Protocol, seed: int, text: Windows | None = None) -> dict[str, Any]:
    """What decides a session's figures besides the plans."""
    own: dict[str, Any] = {"prompts": text.describe()} if text else {}  # setups from before a choice stay equal
    own |= {"turns": "a step each"} if engine.stepwise else {}
    return {**asdict(protocol), **engine.describe(), "seed": seed, **own}


def _spent(engine: Engine, plan: Plan, tokens: Tensor, prompt: int, done: Callable[[], Any]) -> dict[str, Any]:
    """Counts of prefill and of decode, from a run of their own."""
    with engine.using(plan):
        found: dict[str, Any] = engine.counted(tokens, prompt)
    done()
    return found


def random_profile(engine: HFEngine, names: Sequence[str], seed: int = 0, progress: bool = False) -> Any:
    """What methods need of a random-weight model, on random tokens: they can be planned then."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(engine.model.config.vocab_size, (8, 64), generator=generator)
    return profile(engine, Windows(ids, "random tokens"), 8, quantities=needs(names), seed=seed, progress=progress)


def measured(path: Path, engine: Engine, plans: Sequence[Plan], protocol: Protocol, seed: int) -> list[Record]:
    """The records of one whole session of these plans under this protocol that a file holds, see `whole_session`.

    Another machine's, or of other versions, are none.
    """
    wanted, here = setup(engine, protocol, seed), records.machine()
    own = [r for r in records.resume(path) if {**r.environment, **here} == r.environment]
    same = [r for r in own if r.fingerprint == engine.fingerprint and views.setup(r) == wanted]
    return whole_session(same, [plan.digest for plan in plans])


def whole_session(found: Sequence[Record], wanted: Sequence[str]) -> list[Record]:
    """The speed records of one session that timed all of some plans, in the order of their digests; none if no session
    did. A transplanted plan also goes by the digest that it has on the embedded model."""
    sessions: dict[str, dict[str | None, Record]] = {}
    for record in found:
        if record.about == "speed":
            own = record.details.get("transplanted", {}).get("plan")
            sessions.setdefault(record.setup["session"], {}).update({own: record, record.plan: record})
    return next(([known[w] for w in wanted] for known in sessions.values() if set(wanted) <= set(known)), [])
