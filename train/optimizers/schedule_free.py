"""Provides Schedule-Free AdamW: averages of parameters instead of a decaying learning rate (arXiv 2405.15682).

    y_t = (1 - beta1) z_t + beta1 x_t                           where the gradient is taken
    z_{t+1} = z_t - rate_t * (g_t / (sqrt(v_t) + eps) + decay * y_t)
    x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}                       c_t = rate_t^2 / sum_{s <= t} rate_s^2

x are the parameters of the run, which are evaluated, saved and generated with. z is a part of the optimizer's state.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recurrax.patterns import by_path
from train.optimizers.base import Optimizer
from train.optimizers.groups import Setting
from train.optimizers.schedules import Constant, Schedule


class ScheduleFreeState(NamedTuple):
    """The state beside the averages x."""

    count: jax.Array
    """Number of updates."""
    rates: jax.Array
    """Sum of squared learning rates."""
    adam: optax.OptState
    """Second moments."""
    z: Any
    """The parameters that take the steps."""


@dataclasses.dataclass(frozen=True)
class ScheduleFreeAdamW(Optimizer):
    """AdamW without a schedule: every step's parameters are already averaged. A warm-up is still needed."""

    schedule: Schedule = Constant()
    """Learning rate of each step as a fraction of the maximum."""
    beta1: float = 0.9
    """Weight of the average x in the point where gradients are taken."""
    beta2: float = 0.95
    """Decay factor of the second moment."""

    normalizes = True

    def __post_init__(self):
        super().__post_init__()
        self._check_averages("beta1", "beta2")

    def gradient_point(self, params, opt_state):
        z = opt_state[1].z
        return jax.tree.map(lambda z, x: (1 - self.beta1) * z + self.beta1 * x, z, params)

    def build(self, declared) -> optax.GradientTransformation:
        settings, rates = self.settings(declared), self.rates()
        adam = optax.scale_by_adam(0.0, self.beta2)

        def init(params):
            zero = jnp.zeros((), jnp.int32)
            return ScheduleFreeState(zero, jnp.zeros(()), adam.init(params), jax.tree.map(jnp.copy, params))

        def update(gradients, state, params):
            directions, second = adam.update(gradients, state.adam)
            rate = jnp.asarray(rates(state.count), jnp.float32)
            total = state.rates + rate**2
            # Before the first step with a rate above 0 there is nothing to average.
            c = jnp.where(total > 0, rate**2 / jnp.where(total > 0, total, 1), 0)
            point = self.gradient_point(params, (None, state))
            own = by_path(params, settings) if settings else jax.tree.map(lambda _: Setting(), params)
            z = jax.tree.map(
                lambda z, g, y, own: z - rate * own.learning_rate * (g + own.weight_decay * y),
                *(state.z, directions, point, own),
            )
            updates = jax.tree.map(lambda x, z: c * (z - x), params, z)
            return updates, ScheduleFreeState(state.count + 1, total, second, z)

        return optax.chain(optax.clip_by_global_norm(self.clip_norm), optax.GradientTransformation(init, update))
