"""k_base of Alloc-T: how many experts every token keeps before the rest is shared out (the paper's section 4.3).

With k_base at k_l or above there is nothing left to share. Where k_l is whole that is uniform's top-k, so its plan
stands there; values above floor(k_l) change nothing and stand as floor(k_l).
"""

from __future__ import annotations

from dataclasses import replace

from allocmoe.analyses.analysis import Analysis, Setting
from allocmoe.plan import Plan
from allocmoe.records import Record

NAME = "k_base"


def rows(setting: Setting) -> dict[str, list[Plan]]:
    """A row per k_base from 0 to K - 1, a plan per budget: equal computations are one plan."""
    spec = setting.engine.spec
    uniform = {p.budget: p for p in setting.plans(["uniform"], setting.budgets)[1:]}
    table: dict[str, list[Plan]] = {}
    for asked in range(spec.top_k):
        plans = []
        for plan in setting.plans(["alloc-t"], setting.budgets)[1:]:
            k = plan.budget / spec.layers
            if asked >= k and k == int(k):
                plans.append(uniform[plan.budget])
            else:
                plans.append(replace(plan, parameters={**plan.parameters, "k_base": min(asked, int(k))}))
        table[str(asked)] = plans
    return table


def _run(setting: Setting) -> list[Record]:
    return setting.table(NAME, rows(setting))


ANALYSIS = Analysis(NAME, "how many experts Alloc-T gives to every token first", "Tables 2, 5 and 6", _run)
