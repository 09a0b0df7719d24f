"""Choose experts for tokens, and measure how evenly they are chosen.

    s = softmax(W_r x)  or  sigmoid(W_r x)         one score per expert
    chosen: the k experts with the highest s_i + b_i; weights s_i, divided by their sum if `normalize`
    balance loss  X sum_i f_i P_i      f_i: share of all choices; P_i: mean of s_i / sum_j s_j; 1 if even
    bias update   b_i <- b_i + u sign(1 / X - f_i)

The balance loss is that of the Switch Transformer (Fedus et al., 2021, arXiv 2101.03961), for k choices per token as
for one; its gradient passes through P alone. The bias update (Wang et al., 2024, arXiv 2408.15664) balances the choice
and leaves the gradients alone. With groups, experts are chosen from the groups whose two best scores have the highest
sums (DeepSeek-V3, arXiv 2412.19437). The config is a `recurrax.projections.MixtureOfExperts`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from recurrax.ops import linear
from recurrax.ops.dtypes import upcast
from recurrax.ops.sharding import sharded
from recurrax.ops.summaries import Pointwise
from recurrax.projections.base import ProjectionConfig
from recurrax.types import Params

SCORES = ("softmax", "sigmoid")


class Routes(NamedTuple):
    """Where each token goes."""

    scores: Float[Array, "*batch X"]
    """The score of each expert, float32."""
    experts: Int[Array, "*batch k"]
    """The indices of the token's experts."""
    weights: Float[Array, "*batch k"]
    """Their weights."""


def route(params: Params, x: Float[Array, "B T D"], config: ProjectionConfig) -> Routes:
    """Return the scores, and the choice and weights of each token's experts."""
    return _route(x, params["router_kernel"], params.get("choice_bias"), config)


# On a mesh each device routes its own tokens: XLA alone could gather them for the choice.
@sharded({"x": "B T", "router_kernel": "", "choice_bias": ""}, results=Routes("B T", "B T", "B T"), summary=Pointwise())
def _route(x, router_kernel, choice_bias, config):
    logits = linear(upcast(x), router_kernel)
    scores = jax.nn.softmax(logits, axis=-1) if config.scores == "softmax" else jax.nn.sigmoid(logits)
    ranked = scores if choice_bias is None else scores + upcast(choice_bias)[None, None]
    if config.num_groups > 1:
        groups = ranked.reshape(*ranked.shape[:-1], config.num_groups, -1)
        best = lax.top_k(groups, 2)[0].sum(-1)
        _, kept = lax.top_k(best, config.groups_per_token)
        kept = jax.nn.one_hot(kept, config.num_groups, dtype=bool).any(-2)
        ranked = jnp.where(kept[..., None], groups, -jnp.inf).reshape(ranked.shape)
    _, experts = lax.top_k(ranked, config.experts_per_token)
    weights = jnp.take_along_axis(scores, experts, axis=-1)
    if config.normalize:
        # All sigmoids may underflow; 1e-20 is below the rounding error of any relevant sum.
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
    return Routes(scores, experts, config.scale * weights)


def balance(routes: Routes) -> tuple[Float[Array, ""], Float[Array, " X"]]:
    """Return the balance loss, and the share f of all choices that each expert has, over all tokens of the batch."""
    count, tokens = routes.scores.shape[-1], tuple(range(routes.scores.ndim - 1))
    chosen = jax.nn.one_hot(routes.experts, count, dtype=routes.scores.dtype).sum(-2)
    share = chosen.mean(tokens) / routes.experts.shape[-1]
    probability = (routes.scores / (routes.scores.sum(-1, keepdims=True) + 1e-20)).mean(tokens)
    return count * (lax.stop_gradient(share) * probability).sum(), share
