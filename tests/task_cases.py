"""One of each task, for the tests of what they share and of their answers."""

from recurrax import tasks

ALL = {
    "copying": tasks.Copying(length=40),
    "selective copying": tasks.SelectiveCopying(length=40),
    "induction heads": tasks.InductionHeads(length=20),
    "MQAR": tasks.MQAR(length=64, num_pairs=8, num_tokens=64),
    "MQAR, zeros between": tasks.MQAR(length=64, num_pairs=8, num_tokens=64, random_between=False),
    "forgetting MQAR": tasks.ForgettingMQAR(length=64, num_pairs=6, num_rebinds=9, num_tokens=64),
    "parity": tasks.Parity(length=33),
    "counting": tasks.ModularCounting(length=33, modulus=5),
    "arithmetic": tasks.ModularArithmetic(length=32),
    **{group: tasks.GroupWord(length=30, group=group) for group in ("Z60", "S3", "S4", "A5", "S5")},
    "swaps": tasks.GroupWord(length=30, group="S5", letters="swaps"),
    **{f"generators of {g}": tasks.GroupWord(length=30, group=g, letters="generators") for g in ("S4", "A5")},
    "automata": tasks.RandomAutomata(length=100),
    "regression": tasks.LinearRegression(length=12, dim=4, noise=0.5),
    "adding": tasks.Adding(length=15),
    "oscillation": tasks.Oscillation(length=20, num_frequencies=4),
    "pendulum": tasks.Pendulum(length=12),
    "listops": tasks.ListOps(length=60),
    "digits": tasks.SequentialImages(),
    "digits by row": tasks.SequentialImages(scan="row", split="test"),
    "passkey": tasks.Passkey(length=200),
}
COUNT = 40
