"""Predicts what a training step will hold, compute and send on each device: `python -m train PRESET --plan`.

program      compiles the step for virtual devices, from abstract arrays
hlo          parses the text of the compiled program
cost         counts the matrix products, memory traffic and collectives of one device in it
collectives  reads the kind, group and size of each collective
chips        lists peak rates of named accelerators
page         prints the figures as a page of text
"""

from train.plan.chips import CHIPS, Chip, Times, times
from train.plan.cost import Cost
from train.plan.page import report
from train.plan.program import Plan, devices_of, make_plan, use_virtual_devices

__all__ = [
    "CHIPS",
    "Chip",
    "Cost",
    "Plan",
    "Times",
    "devices_of",
    "make_plan",
    "report",
    "times",
    "use_virtual_devices",
]
