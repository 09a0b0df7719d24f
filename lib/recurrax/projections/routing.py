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

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from recurrax.ops import linear
from recurrax.ops.dtypes import upcast
from recurrax.projections.base import ProjectionConfig
from recurrax.types import Params

SCORES = ("softmax", "sigmoid")


def scores(params: Params, x: Float[Array, "*batch D"], config: ProjectionConfig) -> Float[Array, "*batch X"]:
    """Return the score of each expert, computed in float32."""
    logits = linear(upcast(x), params["router_kernel"])
    return jax.nn.softmax(logits, axis=-1) if config.scores == "softmax" else jax.nn.sigmoid(logits)


def choose(params: Params, scores: Float[Array, "*batch X"], config: ProjectionConfig) -> Int[Array, "*batch k"]:
    """Return the indices of each token's experts."""
    ranked = scores
    if config.choice_bias:
        ranked = scores + upcast(params["choice_bias"]).reshape((1,) * (scores.ndim - 1) + (-1,))
    if config.num_groups > 1:
        groups = ranked.reshape(*ranked.shape[:-1], config.num_groups, -1)
        best = lax.top_k(groups, 2)[0].sum(-1)
        _, kept = lax.top_k(best, config.groups_per_token)
        kept = jax.nn.one_hot(kept, config.num_groups, dtype=bool).any(-2)
        ranked = jnp.where(kept[..., None], groups, -jnp.inf).reshape(ranked.shape)
    return lax.top_k(ranked, config.experts_per_token)[1]


def weights(
    scores: Float[Array, "*batch X"], experts: Int[Array, "*batch k"], config: ProjectionConfig
) -> Float[Array, "*batch k"]:
    """Return the weights of each token's experts."""
    chosen = jnp.take_along_axis(scores, experts, axis=-1)
    if config.normalize:
        # All sigmoids may underflow; 1e-20 is below the rounding error of any relevant sum.
        chosen = chosen / (chosen.sum(-1, keepdims=True) + 1e-20)
    return config.scale * chosen


def balance(
    scores: Float[Array, "*batch X"], experts: Int[Array, "*batch k"]
) -> tuple[Float[Array, ""], Float[Array, " X"]]:
    """Return the balance loss, and the share f of all choices that each expert has, over all tokens of the batch."""
    count = scores.shape[-1]
    tokens = tuple(range(scores.ndim - 1))
    share = jax.nn.one_hot(experts, count, dtype=scores.dtype).sum(-2).mean(tokens) / experts.shape[-1]
    probability = (scores / (scores.sum(-1, keepdims=True) + 1e-20)).mean(tokens)
    return count * (lax.stop_gradient(share) * probability).sum(), share
