"""Tasks with exact answers: what a recurrence can hold, look up and follow.

    task = GroupWord(group="S3", length=64)
    inputs, targets, weights, _ = task.batch(seed=0, start=0, size=32)

In NumPy: sequences are functions of (seed, index), the same on every machine. The docstring of each says which claim
it tests, whose, what chance has, and what to expect.
"""

from recurrax.tasks.automata import RandomAutomata
from recurrax.tasks.base import Example, Task
from recurrax.tasks.copying import Copying, SelectiveCopying
from recurrax.tasks.counting import ModularArithmetic, ModularCounting, Parity
from recurrax.tasks.digits import SequentialImages
from recurrax.tasks.groups import GroupWord
from recurrax.tasks.listops import ListOps
from recurrax.tasks.passkey import Passkey
from recurrax.tasks.recall import MQAR, ForgettingMQAR, InductionHeads
from recurrax.tasks.regression import Adding, LinearRegression
from recurrax.tasks.signals import Oscillation, Pendulum

__all__ = [
    "MQAR",
    "Adding",
    "Copying",
    "Example",
    "ForgettingMQAR",
    "GroupWord",
    "InductionHeads",
    "LinearRegression",
    "ListOps",
    "ModularArithmetic",
    "ModularCounting",
    "Oscillation",
    "Parity",
    "Passkey",
    "Pendulum",
    "RandomAutomata",
    "SelectiveCopying",
    "SequentialImages",
    "Task",
]
