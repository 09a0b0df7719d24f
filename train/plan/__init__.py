"""What a step will hold, compute and send, read before a device is paid for: `python -m train PRESET --plan`.

program      compiles the step for virtual devices, from abstract arrays
hlo          the compiled program's text as objects
cost         products, memory traffic and exchanges of one device, counted in it
collectives  who exchanges what with whom
chips        peak rates of named accelerators
page         the figures as a page of text
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
