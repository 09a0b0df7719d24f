"""Schedules have their learning rates at every step, refuse what makes no schedule, and end where they say."""

import math

import pytest

from train.optimizers import AdamW, Constant, Cosine, Linear, OneCycle, RangeTest, WarmupStableDecay

PEAK = 1e-2
RATES = {
    Constant(warmup_steps=10): {0: 0, 5: 5e-3, 10: 1e-2, 5000: 1e-2},
    Constant(warmup_steps=0): {0: 1e-2, 1: 1e-2},
    Cosine(warmup_steps=10, decay_steps=110, final_fraction=0.1): {
        **{0: 0, 5: 5e-3, 10: 1e-2, 35: 1e-3 + 9e-3 * (1 + math.sqrt(0.5)) / 2, 60: 5.5e-3, 110: 1e-3, 5000: 1e-3}
    },
    Cosine(warmup_steps=0): {0: 1e-2},
    Linear(warmup_steps=10, decay_steps=110, final_fraction=0.1): {5: 5e-3, 10: 1e-2, 60: 5.5e-3, 110: 1e-3, 200: 1e-3},
    Linear(warmup_steps=0, decay_steps=100, final_fraction=0.0): {0: 1e-2, 50: 5e-3, 100: 0},
    WarmupStableDecay(warmup_steps=10, decay_steps=100, stable_steps=64, final_fraction=0.0): {
        **{5: 5e-3, 10: 1e-2, 64: 1e-2, 73: 5e-3, 80: 1e-2 / 3, 100: 0, 500: 0}
    },
    OneCycle(warmup_steps=30, decay_steps=100, final_fraction=0.0, first_fraction=0.2): {
        **{0: 2e-3, 15: 6e-3, 30: 1e-2, 65: 5e-3, 100: 0, 500: 0}
    },
    RangeTest(rise_steps=100, first_fraction=1e-4): {0: 1e-6, 50: 1e-4, 100: 1e-2, 500: 1e-2},
}


@pytest.mark.parametrize("schedule", RATES, ids=repr)
def test_schedule_has_its_rates(schedule):
    rates = AdamW(learning_rate=PEAK, schedule=schedule).rates()
    wanted = RATES[schedule]
    assert {step: float(rates(step)) for step in wanted} == pytest.approx(wanted, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("schedule", RATES, ids=repr)
def test_schedule_is_constant_from_its_last_step(schedule):
    rates = schedule.rates(PEAK)
    last = schedule.last_step or schedule.warmup_steps
    assert float(rates(last)) == pytest.approx(float(rates(last + 1000)), abs=1e-9)
    assert last == 0 or float(rates(last - 1)) != pytest.approx(float(rates(last)), abs=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(warmup_steps=5, decay_steps=5), r"warmup_steps must be in \[0, decay_steps\), got 5 of 5"),
        (lambda: Linear(final_fraction=1.5), r"final_fraction must be in \[0, 1\], got 1.5"),
        (lambda: WarmupStableDecay(stable_steps=1000), r"stable_steps must be in \[warmup_steps, decay_steps\)"),
        (lambda: OneCycle(first_fraction=-1.0), r"first_fraction must be in \[0, 1\], got -1"),
        (lambda: RangeTest(rise_steps=0), "rise_steps must be positive, got 0"),
        (lambda: Constant(warmup_steps=-1), r"warmup_steps must be in \[0, 2\*\*31\), got -1"),
    ],
)
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
