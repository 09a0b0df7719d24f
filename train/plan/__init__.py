"""Predicts what a training step will hold, compute and send on each device: `python -m train PRESET --plan`.

program    compiles the step for virtual devices, from abstract arrays
page       prints the figures as a page of text
on_chip    compiles the step for a named chip or slice by its own compiler, and prints what that says: --chip v5e:4x4
"""

from train.plan.on_chip import ChipPlan, chip_report, plan_on_chip
from train.plan.page import report
from train.plan.program import Plan, devices_of, make_plan, use_virtual_devices

__all__ = [
    "ChipPlan",
    "Plan",
    "chip_report",
    "devices_of",
    "make_plan",
    "plan_on_chip",
    "report",
    "use_virtual_devices",
]
