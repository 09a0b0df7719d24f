"""Generate tokens: the prompt runs as one chunk, then `lax.scan` runs single tokens with a state of constant size."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from recurrax import checks
from recurrax.models.language_model import LanguageModel
from recurrax.types import ArrayLike, Params, State


@functools.partial(jax.jit, static_argnums=0)
def prefill(
    model: LanguageModel, params: Params, prompt: Int[Array, "B T"], state: State | None = None
) -> tuple[Float[Array, "B vocab_size"], State]:
    """Return the logits of the token after the prompt and the state to continue from; `state` is that before it.

    Raises:
      ValueError: the prompt has no tokens or no rows.
    """
    logits, state = model.apply(params, prompt, state)
    return logits[:, -1], state


@functools.partial(jax.jit, static_argnums=(0, 5), static_argnames=("num_tokens",))
def generate(
    model: LanguageModel,
    params: Params,
    logits: Float[Array, "B vocab_size"],
    state: State,
    key: PRNGKeyArray,
    num_tokens: int,
    temperature: Float[Array, ""] | float = 1.0,
    top_p: Float[Array, ""] | float = 1.0,
    allowed: Bool[ArrayLike, " vocab_size"] | None = None,
) -> tuple[Int[Array, "B num_tokens"], Float[Array, "B vocab_size"], State, PRNGKeyArray]:
    """Draw tokens one by one, starting from `logits`; return them and the (logits, state, key) to continue from.

    Args:
      temperature: divisor of the logits; 0 selects the likeliest token.
      top_p: draw from the smallest set of tokens whose probability reaches this (Holtzman et al., arXiv 1904.09751).
      allowed: True for the tokens that may be drawn, in any positions; None allows all.

    Raises:
      ValueError: `logits` is empty, or `allowed` has a wrong shape or dtype.
    """
    checks.not_empty("logits", logits)

    def step(carry, _):
        logits, state, key = carry
        key, draw = jax.random.split(key)
        token = sample(draw, logits, temperature, top_p, allowed)
        logits, state = model.apply(params, token[:, None], state)
        return (logits[:, 0], state, key), token

    (logits, state, key), tokens = jax.lax.scan(step, (logits, state, key), length=num_tokens)
    return tokens.T, logits, state, key


def sample(key, logits, temperature=1.0, top_p=1.0, allowed=None) -> Int[Array, " B"]:
    """Return one token per row of logits (B, vocab_size), among those for which `allowed` (vocab_size,) is True."""
    if allowed is not None:
        allowed = jnp.asarray(allowed)
        if allowed.dtype != jnp.bool_ or allowed.shape != logits.shape[-1:]:
            expected = f"boolean (vocab_size,) = {logits.shape[-1:]}"
            raise ValueError(f"allowed must be {expected}, got {allowed.dtype} of shape {allowed.shape}")
        logits = jnp.where(allowed[None], logits, -jnp.inf)
    likeliest = jnp.argmax(logits, axis=-1)
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    descending = jnp.sort(scaled, axis=-1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(descending, axis=-1), axis=-1) - jax.nn.softmax(descending, axis=-1)
    # The set's least likely token is the last one with less than top_p of probability before it.
    # However small top_p is, the likeliest token stays.
    threshold = jnp.min(jnp.where(before < top_p, descending, descending[..., :1]), axis=-1, keepdims=True)
    drawn = jax.random.categorical(key, jnp.where(scaled >= threshold, scaled, -jnp.inf), axis=-1)
    return jnp.where(temperature > 0, drawn, likeliest).astype(jnp.int32)  # argmax gives int64 with x64
