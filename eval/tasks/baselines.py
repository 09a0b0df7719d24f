"""LSTM and GRU in the mixers' contract: what linear recurrences are compared with, step by step."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import Mixer, MixerConfig
from recurrax.mixers.base import fan_in, zeros
from recurrax.ops import linear, shift
from recurrax.parameters import Parameter, reads, vector, writes

orthogonal = nn.initializers.orthogonal()


@dataclasses.dataclass(frozen=True)
class LSTM(MixerConfig):
    """Hochreiter and Schmidhuber, 1997, with forget gates that start at sigmoid(1)."""

    capabilities = RECURRENT._replace(linear_in_values=False, splits_time=False)

    width: int | None = None
    """E of the state; None is dim."""

    def __post_init__(self):
        checks.positive(self, "width")

    def layer(self, dim, dtype=jnp.float32, name=None):
        return LSTMLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return {name: jnp.zeros((batch_size, self.width or dim), jnp.float32) for name in "hc"}


@dataclasses.dataclass(frozen=True)
class GRU(LSTM):
    """Cho et al., 2014, arXiv 1406.1078, with the reset gate after the product."""

    def layer(self, dim, dtype=jnp.float32, name=None):
        return GRULayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return {"h": jnp.zeros((batch_size, self.width or dim), jnp.float32)}


def lstm(params, x, state, config, *, reset=None):
    """c = f c + i g, h = o tanh(c); the state is {"h", "c"}: (B, E) float32."""

    def cell(state, inputs):
        i, f, g, o = jnp.split(inputs + state["h"] @ params["recurrent_kernel"], 4, axis=-1)
        c = jax.nn.sigmoid(f + 1) * state["c"] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return {"h": jax.nn.sigmoid(o) * jnp.tanh(c), "c": c}

    return _run(cell, params, x, state or config.init_state(x.shape[0], params["out_kernel"].shape[0]), reset)


def gru(params, x, state, config, *, reset=None):
    """h = z h + (1 - z) n; the state is {"h": (B, E) float32}."""

    def cell(state, inputs):
        h = state["h"]
        (r, z, n), (of_r, of_z, of_n) = (jnp.split(v, 3, axis=-1) for v in (inputs, h @ params["recurrent_kernel"]))
        z = jax.nn.sigmoid(z + of_z + 1)
        return {"h": z * h + (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + of_r) * of_n)}

    return _run(cell, params, x, state or config.init_state(x.shape[0], params["out_kernel"].shape[0]), reset)


def _run(cell, params, x, state, reset):
    inputs = shift(linear(x, params["in_kernel"]), params["bias"]).astype(jnp.float32)
    reset = jnp.zeros(x.shape[:2], bool) if reset is None else reset

    def step(state, now):
        inputs, reset = now
        state = cell(jax.tree.map(lambda leaf: jnp.where(reset[:, None], 0, leaf), state), inputs)
        return state, state["h"]

    state, h = lax.scan(step, state, (inputs.swapaxes(0, 1), reset.swapaxes(0, 1)))
    return linear(h.swapaxes(0, 1).astype(x.dtype), params["out_kernel"]), state


class LSTMLayer(Mixer):
    """G (D E + E E + E) + E D parameters, for G = 4 gates."""

    function = staticmethod(lstm)
    gates = 4

    def parameters(self, depth):
        width = self.config.width or self.dim
        return {
            "in_kernel": reads(fan_in, self.dim, self.gates * width),
            "recurrent_kernel": Parameter(orthogonal, (width, self.gates * width), (None, "heads")),
            "bias": vector(zeros, self.gates * width),
            "out_kernel": writes(fan_in, width, self.dim),
        }


class GRULayer(LSTMLayer):
    """The same for G = 3."""

    function = staticmethod(gru)
    gates = 3
