"""Provide a mixture of experts: gated linear units, of which each token uses a few.

    s = softmax(W_r x)  or  sigmoid(W_r x)                      one score per expert
    y = scale * sum_i w_i GLU_i(x) + g GLU_shared(x)            over the experts i with the highest s_i + b_i

w is s of those experts, divided by its sum (`normalize`). The bias b affects the choice but not the weights; it has no
gradient. `recurrax.projections.routing` has the choice, its groups, and how training balances it. The shared expert,
which all tokens use, may be weighted by g = sigmoid(w_g . x).

Tokens are sorted by expert and multiplied by a grouped matrix product, so no token is dropped and nothing is padded.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import LOSSES, UPDATES
from recurrax.mixers.base import fan_in, zeros
from recurrax.ops import linear, sharding
from recurrax.ops.sharding import sharded
from recurrax.ops.summaries import Pointwise
from recurrax.parameters import Parameter, reads, vector, writes
from recurrax.projections import routing
from recurrax.projections.base import ACTIVATIONS, Projection, ProjectionConfig
from recurrax.projections.routing import SCORES
from recurrax.types import Params

each_fan_in = nn.initializers.lecun_normal(batch_axis=0)
"""Variance 1 / D for each matrix of a stack (X, D, E)."""


@dataclasses.dataclass(frozen=True)
class MixtureOfExperts(ProjectionConfig):
    """A mixture of gated linear units, of which each token uses a few."""

    expansion: float = 1.0
    """Width of one expert's hidden layer over the model's dimension; it is rounded to the nearest multiple of 8."""
    num_experts: int = 8
    """Number of experts, X."""
    experts_per_token: int = 2
    """Number of experts that each token uses."""
    shared_hidden: int | None = None
    """Hidden width of a shared expert that all tokens use; None disables it."""
    shared_gate: bool = False
    """Whether the shared expert's output is multiplied by sigmoid(w . x)."""
    scores: str = "softmax"
    """Scores: "softmax" over the experts, or "sigmoid" of each expert's logit."""
    normalize: bool = True
    """Whether the weights of a token's experts are divided by their sum."""
    scale: float = 1.0
    """Factor of the sum over the chosen experts."""
    choice_bias: bool = False
    """Whether a bias is added to the scores for the choice of experts only."""
    num_groups: int = 1
    """Number of groups of adjacent experts."""
    groups_per_token: int = 1
    """Number of groups from which each token's experts are chosen."""
    balance: float = 0.0
    """Weight of the balance loss in training; the Switch Transformer has 0.01."""
    bias_rate: float = 0.0
    """Step u of the choice bias after each step of training, with `choice_bias`; the authors use 0.001."""

    def __post_init__(self):
        super().__post_init__()
        names = ("num_experts", "experts_per_token", "shared_hidden", "scale", "num_groups", "groups_per_token")
        checks.positive(self, *names)
        checks.choice("scores", self.scores, SCORES)
        checks.not_negative(self, "balance", "bias_rate")
        if self.bias_rate and not self.choice_bias:
            raise ValueError(f"bias_rate {self.bias_rate} moves the choice bias; set choice_bias=True")
        if self.shared_gate and self.shared_hidden is None:
            raise ValueError("shared_gate needs a shared expert; set shared_hidden")
        size, rest = divmod(self.num_experts, self.num_groups)
        if rest:
            raise ValueError(f"num_experts {self.num_experts} is not divisible by num_groups {self.num_groups}")
        if self.num_groups > 1 and size < 2:
            raise ValueError(f"{self.num_groups} groups of {self.num_experts} experts: a group needs two, to be scored")
        if self.groups_per_token > self.num_groups:
            raise ValueError(f"groups_per_token {self.groups_per_token} is above num_groups {self.num_groups}")
        if self.experts_per_token > self.groups_per_token * size:
            raise ValueError(
                f"experts_per_token {self.experts_per_token} is above the {self.groups_per_token * size} experts of "
                f"{self.groups_per_token} groups of {size}"
            )

    def layer(self, dim, dtype=jnp.float32, name=None):
        return MixtureOfExpertsLayer(self, dim, dtype, name=name)


def mixture_of_experts(params: Params, x: Float[Array, "B T D"], config: MixtureOfExperts) -> Float[Array, "B T D"]:
    """Return scale * sum_i w_i GLU_i(x) over each token's experts, plus the shared expert's output."""
    checks.not_empty("x", x)
    act = ACTIVATIONS[config.activation]
    _, experts, weights = routing.route(params, x, config)
    y = _of_experts(x, experts, weights, *(params[name] for name in EXPERTS), config)
    if config.shared_hidden is not None:
        shared = act(linear(x, params["in_shared_gate"])) * linear(x, params["in_shared_kernel"])
        shared = linear(shared, params["out_shared_kernel"])
        if config.shared_gate:
            shared = shared * jax.nn.sigmoid(linear(x, params["shared_gate_kernel"]))
        y = y + shared
    return y


EXPERTS = ("in_gates", "in_kernels", "out_kernels")


# On a mesh each device sorts its own tokens and holds a shard of each expert's hidden units.
@sharded(
    {
        "x": "B T",
        "experts": "B T",
        "weights": "B T",
        "in_gates": ". . H",
        "in_kernels": ". . H",
        "out_kernels": ". H",
    },
    results="B T",
    summary=Pointwise(),
)
def _of_experts(x, experts, weights, in_gates, in_kernels, out_kernels, config):
    """Return the weighted sum over each token's experts."""
    tokens, act = x.reshape(-1, x.shape[-1]), ACTIVATIONS[config.activation]
    # Rows are pairs (token, position among its experts), sorted by expert.
    order = jnp.argsort(experts.reshape(-1), stable=True)
    sizes = jnp.bincount(experts.reshape(-1), length=config.num_experts)
    rows = tokens[order // config.experts_per_token]
    gate, hidden, out = (kernel.astype(x.dtype) for kernel in (in_gates, in_kernels, out_kernels))
    rows = act(lax.ragged_dot(rows, gate, sizes)) * lax.ragged_dot(rows, hidden, sizes)
    rows = lax.ragged_dot(rows, out, sizes)[jnp.argsort(order)].reshape(*weights.shape, -1)
    y = (rows * weights[..., None].astype(x.dtype)).sum(2)
    split = sharding.axis("H")  # this device has a shard of the hidden units
    return lax.psum(y, split) if split else y


class MixtureOfExpertsLayer(Projection):
    """Parameters of `mixture_of_experts`: X (3 D E + D) of them, E the width of one expert.

    A choice bias adds X, a shared expert of width S 3 D S, and its gate D.

    Where the collections are mutable, as in training, it adds the weighted balance loss to `losses` and the step of the
    choice bias to `updates`, both over all tokens of the call, those without a target among them.
    """

    function = staticmethod(mixture_of_experts)

    def run(self, params, x, state, *, reset, depth, shared):
        config = self.config
        if (config.balance or config.bias_rate) and self.is_mutable_collection(LOSSES) and not self.is_initializing():
            loss, share = routing.balance(routing.route(params, x, config))  # which the function computes, too
            if config.balance:
                self.put_variable(LOSSES, "balance", config.balance * loss)
            if config.bias_rate:
                self.put_variable(UPDATES, "choice_bias", config.bias_rate * jnp.sign(1 / config.num_experts - share))
        return super().run(params, x, state, reset=reset, depth=depth, shared=shared)

    def parameters(self, depth):
        config, d, e, n = self.config, self.dim, self.config.width(self.dim), self.config.num_experts
        parameters = {
            "router_kernel": Parameter(fan_in, (d, n), ("embed", "experts"), wide=True),
            "in_gates": Parameter(each_fan_in, (n, d, e), ("experts", "embed", "hidden")),
            "in_kernels": Parameter(each_fan_in, (n, d, e), ("experts", "embed", "hidden")),
            "out_kernels": Parameter(each_fan_in, (n, e, d), ("experts", "hidden", "embed")),
        }
        if config.choice_bias:
            parameters["choice_bias"] = vector(zeros, n, "experts")
        if config.shared_hidden is not None:
            for name in ("in_shared_gate", "in_shared_kernel"):
                parameters[name] = reads(fan_in, d, config.shared_hidden, "hidden")
            parameters["out_shared_kernel"] = writes(fan_in, config.shared_hidden, d, "hidden")
        if config.shared_gate:
            parameters["shared_gate_kernel"] = Parameter(fan_in, (d, 1), ("embed", None))
        return parameters
