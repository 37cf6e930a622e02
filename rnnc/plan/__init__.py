"""Which strategies may run a recurrence, what each costs, and which one is chosen.

Each strategy is one file with one `Strategy`: legality from the normal forms, cost, and a sentence why.
"""

from __future__ import annotations

from rnnc.plan.choose import STRATEGIES, GroupPlan, Option, Plan, plan

__all__ = ["STRATEGIES", "GroupPlan", "Option", "Plan", "plan"]
