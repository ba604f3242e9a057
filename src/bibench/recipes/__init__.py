"""How a network is trained, as plain frozen dataclasses: optimizer, schedule, budget.

A schedule is a function of progress in [0, 1], so one that is compressed into half the budget is the same object.
"""

from bibench.recipes.recipe import SGD, Adam, Distillation, Optimizer, Recipe, split_budget
from bibench.recipes.schedules import Constant, Cosine, Linear, Schedule, Step

__all__ = [
    "SGD",
    "Adam",
    "Constant",
    "Cosine",
    "Distillation",
    "Linear",
    "Optimizer",
    "Recipe",
    "Schedule",
    "Step",
    "split_budget",
]
