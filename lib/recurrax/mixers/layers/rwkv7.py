"""RWKV-7's time mix (Peng et al., 2025, arXiv 2503.14456).

    x^i_t = x_t + mu_i * (x_{t-1} - x_t)                    token shift, i = r, w, k, v, a, g
    r, k, v = W_i x^i
    log w = -e^(-1/2) sigmoid(d + W_2 tanh(W_1 x^w))        decay, one per key channel
    a = sigmoid(c + A_2 A_1 x^a)                            in-context learning rate, one per key channel
    g = G_2 sigmoid(G_1 x^g)                                output gate
    kappa = k * xi / |k * xi|                               removal key, normalised to length 1 in each head
    k~ = k * (1 + (a - 1) * alpha)                          replacement key
    S_t = (diag(w_t) - (a_t * kappa_t) kappa_t^T) S_{t-1} + k~_t v_t^T
    o_t = S_t^T r_t
    y_t = W_out ( g_t * (GroupNorm(o_t) + (r_t . (rho * k~_t)) v_t) )       groups are heads

The layers after the first of a model may blend their values with those of the first, the value residual:
v + (v_first - v) * sigmoid(e + V_2 V_1 x^v).
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import parts
from recurrax.mixers.base import Mixer, MixerConfig, fan_in, zeros
from recurrax.mixers.marks import mark
from recurrax.ops import dplr_rule, linear, scale
from recurrax.ops.dtypes import upcast
from recurrax.parameters import Parameter, expands, rate, reads, vector, writes
from recurrax.types import Params, Reset, Scalar, State


@dataclasses.dataclass(frozen=True)
class RWKV7(MixerConfig):
    """A time-mix layer of RWKV-7."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H; the authors' heads have size 64."""
    head_dim: int | None = None
    """Receptance and key size per head, K; None is dim / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is dim / num_heads."""
    decay_rank: int | None = None
    """Rank of the decay's matrix; None is 2.5 sqrt(dim), rounded to the nearest multiple of 32, at least 32."""
    rate_rank: int | None = None
    """Rank of the in-context learning rate's matrix; None is 2.5 sqrt(dim), rounded likewise."""
    gate_rank: int | None = None
    """Rank of the output gate's matrix; None is 5 sqrt(dim), rounded likewise."""
    value_residual: bool = False
    """Whether the layer blends its values with those of the model's first layer, and has parameters for this."""
    value_rank: int | None = None
    """Rank of the blend's matrix; None is 1.7 sqrt(dim), rounded likewise."""
    key_norm_eps: float = 1e-12
    """Epsilon added to the squared length of a removal key."""
    norm_eps: float = 64e-5
    """Epsilon added to each head's variance in the norm."""

    def __post_init__(self):
        names = [field.name for field in dataclasses.fields(self) if field.name != "value_residual"]
        checks.positive(self, *names)

    @property
    def provides_value_residual(self):
        return not self.value_residual

    @property
    def uses_value_residual(self):
        return self.value_residual

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return the head sizes K and V."""
        return checks.head_sizes(self, keys=dim, values=dim)

    def ranks(self, dim: int) -> dict[str, int]:
        """Return the ranks of the low-rank matrices by name."""

        def rank(factor):
            return max(32, 32 * round(factor * math.sqrt(dim) / 32))

        ranks = {
            "decay": self.decay_rank or rank(2.5),
            "rate": self.rate_rank or rank(2.5),
            "gate": self.gate_rank or rank(5.0),
        }
        return {**ranks, "blend": self.value_rank or rank(1.7)} if self.value_residual else ranks

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return RWKV7Layer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return {
            "last": jnp.zeros((batch_size, dim), jnp.float32),
            "s": jnp.zeros((batch_size, self.num_heads, *self.sizes(dim)), jnp.float32),
        }


def rwkv7(
    params: Params,
    x: Float[Array, "B T D"],
    state: State | None,
    config: RWKV7,
    *,
    reset: Reset | None = None,
    first_value: Float[Array, "B T E"] | None = None,
) -> tuple[Float[Array, "B T D"], State]:
    """Apply RWKV-7's time mix; the state is {"last": (B, D), the last input, "s": (B, H, K, V)}, float32.

    `first_value` is v of the model's first layer (`rwkv7_value`); it is None in that layer, which does not blend.

    Raises:
      ValueError: `first_value` is given and the config has no value_residual.
    """
    if first_value is not None and not config.value_residual:
        raise ValueError("first_value is given, but the config has value_residual=False: no parameters to blend it in")
    dtype, state = x.dtype, state or {"last": None, "s": None}
    shifted, last = parts.token_shift(x, state["last"], reset=reset)
    mixed = {i: mix(params[f"mix_{i}"], x, shifted) for i in "rwkvag"}
    r, k, v = (linear(mixed[i], params[f"in_{i}"]) for i in "rkv")
    # Gates and the keys that they scale are computed in float32.
    log_decay = -math.exp(-0.5) * jax.nn.sigmoid(_low_rank(params, "decay", mixed["w"], jnp.tanh))
    rate = mark("rate_gate", jax.nn.sigmoid(_low_rank(params, "rate", mixed["a"])))
    if first_value is not None:
        v = v + (first_value - v) * jax.nn.sigmoid(_low_rank(params, "blend", mixed["v"])).astype(dtype)
    v = mark("values", v)
    gate = linear(jax.nn.sigmoid(linear(mixed["g"], params["in_gate"])), params["gate_kernel"])
    wide = upcast(k)
    removal = wide * upcast(params["removal_scale"])[None, None]
    k = (wide * (1 + (rate - 1) * upcast(params["rate_scale"])[None, None])).astype(dtype)

    r, k, v, removal, rate, log_decay = (parts.heads(z, config.num_heads) for z in (r, k, v, removal, rate, log_decay))
    removal = parts.unit_norm(removal, config.key_norm_eps)
    a, b = mark("removal_key", (-removal).astype(dtype)), mark("removal_rate", (rate * removal).astype(dtype))
    log_decay = mark("log_decay", log_decay)
    o, s = dplr_rule(r, k, v, a, b, log_decay, state["s"], scale=1.0, reset=reset)

    o = parts.merge(parts.layer_norm(upcast(o), eps=config.norm_eps))
    o = o * upcast(params["norm_scale"])[None, None] + upcast(params["norm_bias"])[None, None]
    match = (upcast(r) * upcast(k) * upcast(params["bonus"])[None, None]).sum(-1, keepdims=True)
    o = (o + parts.merge(match * upcast(v))).astype(dtype)
    return linear(mark("mixed", o * gate), params["out_kernel"]), {"last": last, "s": mark("matrix_state", s)}


def rwkv7_value(
    params: Params, x: Float[Array, "B T D"], state: State | None, *, reset: Reset | None = None
) -> Float[Array, "B T E"]:
    """Return v of a layer for the inputs of `rwkv7`; the first layer's v is `first_value` of the layers above."""
    shifted, _ = parts.token_shift(x, None if state is None else state["last"], reset=reset)
    return linear(mix(params["mix_v"], x, shifted), params["in_v"])


def mix(mu: Float[Array, " D"], x: Float[Array, "B T D"], shifted: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Return x + mu * (shifted - x), where `shifted` is x of the token before."""
    return x + scale(shifted - x, mu)


def _low_rank(params, name, x, activation=jax.nn.identity):
    """Return bias + W_2 activation(W_1 x), in float32."""
    hidden = linear(activation(linear(x, params[f"in_{name}"])), params[f"{name}_kernel"])
    return upcast(hidden) + upcast(params[f"{name}_bias"])[None, None]


class RWKV7Layer(Mixer):
    """Parameters of `rwkv7`: D (6 + 2 HK + 2 HV) + (R_w + R_a) (D + HK) + R_g (D + HV) + 5 HK + 2 HV of them.

    A value residual adds R_v (D + HV) + HV.

    As in the authors' code, weight decay leaves out the low-rank matrices, d is trained at twice the learning rate, and
    the scale of the norm starts at ((1 + l) / L)^0.7 in layer l of L.
    """

    function = staticmethod(rwkv7)

    def run(self, params, x, state, *, reset, depth, shared):
        first_value = shared if self.config.uses_value_residual else None
        return rwkv7(params, x, state, self.config, reset=reset, first_value=first_value)

    def shared(self, x, state, reset, below):
        """Return the values of the model's first layer: `below`, or the values of this layer if it is the first."""
        if below is not None:
            return below
        return rwkv7_value(self.variables["params"], x, state, reset=reset)

    def parameters(self, depth):
        d, h, (k, v), ranks = self.dim, self.config.num_heads, self.config.sizes(self.dim), self.config.ranks(self.dim)
        widths = {"decay": h * k, "rate": h * k, "gate": h * v, "blend": h * v}
        low_rank = functools.partial(dataclasses.replace, decayed=False)
        # The authors use a gain of 0.1 with an output matrix that starts at 0; here that matrix starts random.
        gains = {"decay": 0.1, "rate": 0.1, "gate": 1.0, "blend": 0.1}
        decay = rate(functools.partial(_decay_bias, size=k, depth=depth.fraction), h * k)
        biases = {
            "decay": dataclasses.replace(decay, learning_rate=2.0),
            "rate": vector(functools.partial(_ramp, start=-0.19, slope=0.4, curl=0.3, size=k), h * k),
            "blend": vector(functools.partial(_ramp, start=0.73, slope=-0.4), h * v),
        }
        powers = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}
        norm_scale = ((1 + depth.index) / depth.count) ** 0.7
        return {
            **{f"mix_{i}": token_mix(power * (1 - depth.fraction), d) for i, power in powers.items()},
            "in_r": reads(functools.partial(_uniform, bound=0.5), d, h * k),
            "in_k": reads(functools.partial(_uniform, bound=0.05), d, h * k),
            "in_v": reads(functools.partial(_uniform, bound=0.5), d, h * v),
            **{f"in_{name}": low_rank(reads(zeros, d, rank)) for name, rank in ranks.items()},
            **{
                f"{name}_kernel": low_rank(expands(functools.partial(_orthogonal, gain=gains[name]), r, widths[name]))
                for name, r in ranks.items()
            },
            **{f"{name}_bias": biases[name] for name in ranks if name in biases},
            "removal_scale": vector(functools.partial(_ramp, start=0.71, slope=-0.1), h * k),
            "rate_scale": vector(nn.initializers.constant(1.02), h * k),
            "bonus": Parameter(nn.initializers.constant(-0.04), (h, k), ("channels", None), "vector"),
            "norm_scale": vector(nn.initializers.constant(norm_scale), h * v),
            "norm_bias": vector(zeros, h * v),
            "out_kernel": writes(fan_in, h * v, d),
        }


def token_mix(power: Scalar, dim: int) -> Parameter:
    """Declare mu_i = 1 - (i / D)^power: low channels use the token before more than high ones, less with depth."""
    return vector(functools.partial(_mix_start, power=power), dim, "embed")


def _mix_start(key, shape, dtype, *, power):
    """Initialise mu."""
    del key
    return 1 - (jnp.arange(shape[0], dtype=dtype) / shape[0]) ** power


def _ramp(key, shape, dtype, *, start, slope, curl=0.0, size=1):
    """Initialise with start + slope * (-1/2 .. 1/2 over all channels) + curl * `_curl`."""
    del key
    return start + slope * (_line(shape[0], dtype) - 0.5) + curl * _curl(shape[0], size, dtype)


def _decay_bias(key, shape, dtype, *, size, depth):
    """Initialise from slow to fast channels over the width, with more slow ones in deeper layers, and in each head."""
    del key
    return -5.5 + 6 * _line(shape[0], dtype) ** (1 + depth**0.3) + 2.5 * _curl(shape[0], size, dtype)


def _line(width, dtype):
    """Return a ramp from 0 to 1 over the channels."""
    return jnp.arange(width, dtype=dtype) / max(width - 1, 1)


def _curl(width, size, dtype):
    """Return z |z| with z = -1 .. 1 over each head of this size."""
    z = 2 * _line(size, dtype) - 1
    return jnp.tile(z * jnp.abs(z), width // size)


def _uniform(key, shape, dtype, *, bound):
    """Draw uniformly from +-bound / sqrt(D)."""
    bound = bound / math.sqrt(shape[0])
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _orthogonal(key, shape, dtype, *, gain):
    """Draw `gain` times an orthogonal matrix, times sqrt(rows / columns) if that is above 1."""
    return nn.initializers.orthogonal(gain * math.sqrt(max(shape[0] / shape[1], 1)))(key, shape, dtype)
