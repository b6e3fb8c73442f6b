"""The way into a running engine: `llm.collective_rpc("allocmoe_apply", args=(plan.to_dict(),))`.

vLLM adds these methods to its worker class when an engine is asked for a plan. To do so it imports this
module in every worker, before the worker is made: so the plan reaches workers that found no plugin too.
"""

from __future__ import annotations

from typing import Any

from allocmoe.engines.vllm.plugin import register
from allocmoe.engines.vllm.settings import plan_of

register()


class PlanWorker:
    """Remote calls on every worker. Their names must not clash with vLLM's."""

    allocmoe: Any

    def allocmoe_apply(self, plan: dict[str, Any] | str | None) -> str:
        """Put a plan (its document, or that as JSON text) in force, None for the model as it is. Needs
        `"live": true`; returns a line that says what is in force.

        Reset the prefix cache afterwards: what it holds was computed under the plan before.
        """
        budgeted = self.allocmoe
        if not budgeted.settings.live:
            from allocmoe.errors import AllocMoEError

            raise AllocMoEError('this engine was started with a plan for good: give "live": true to switch plans')
        budgeted.apply(plan_of(plan) if plan else None)
        return budgeted.describe()

    def allocmoe_count(self, on: bool) -> None:
        """Count activations from now on, from zero; or stop."""
        self.allocmoe.count(on)

    def allocmoe_spent(self) -> dict[str, Any]:
        """What was counted (see `Spent`), the plan in force, and by what share more or less than its budget a token
        spends: `drift`, None of nothing, and of plans whose budget counts something else."""
        budgeted = self.allocmoe
        plan, spent = budgeted.plan, budgeted.spent.summary()
        budget = plan.exact_budget if plan else budgeted.spec.original_budget
        counts = spent["per_token"] > 0 and (plan is None or plan.rule.bounded)
        return {
            **spent,
            **budgeted.spent.to_dict(),
            "plan": plan.digest if plan else None,
            "method": plan.method if plan else "original",
            "budget": budget,
            "drift": round(spent["per_token"] / budget - 1, 6) if counts else None,
        }
