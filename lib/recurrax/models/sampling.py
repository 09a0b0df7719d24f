"""Generate tokens: prompts run as one chunk, then a loop runs single tokens with a state of constant size.

    prompts, lengths = batch_prompts(rows)
    logits, state = prefill(model, params, prompts, lengths=lengths)
    tokens, logits, state, key = generate(model, params, logits, state, key, 100, ends=(END,))

Programs are compiled for few sizes: prompts are filled up to a power of two, and so is the room for tokens.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from recurrax import checks
from recurrax.models.language_model import LanguageModel
from recurrax.types import ArrayLike, Params, State

SMALLEST = 16
"""Smallest size of a batch's prompts and of the room for tokens."""


def batch_prompts(
    rows: Sequence[Sequence[int] | np.ndarray], context: int | None = None
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, " B"]]:
    """Return prompts of different lengths as one array, filled up at their ends, and their lengths.

    T is a power of two, so that few programs are compiled, but at most `context`, the model's limit, if that is enough.

    Raises:
      ValueError: there is no prompt, or one without a token.
    """
    lengths = np.array([len(row) for row in rows], np.int32)
    if not lengths.size or not lengths.min():
        raise ValueError(f"each prompt must have a token, got prompts of {lengths.tolist()} tokens")
    longest = int(lengths.max())
    size = _room(longest)
    if context is not None:
        size = max(min(size, context), longest)
    prompts = np.zeros((len(rows), size), np.int32)
    for prompt, row in zip(prompts, rows, strict=True):
        prompt[: len(row)] = row
    return prompts, lengths


def prefill(
    model: LanguageModel,
    params: Params,
    prompts: Int[ArrayLike, "B T"],
    state: State | None = None,
    *,
    lengths: Int[ArrayLike, " N"] | None = None,
) -> tuple[Float[Array, "B vocab_size"], State]:
    """Return the logits of the token after each prompt and the state to continue from.

    With `lengths`, row i is prompts[i, :lengths[i]]; its logits and state are those of that row alone.

    Args:
      state: the state before the prompts; None: documents start with them.

    Raises:
      ValueError: the prompts have no tokens or no rows; a length is not in [1, T]; lengths are given with a state,
        which tokens before the shorter prompts would change.
    """
    if lengths is None:
        return _prefill(model, params, jnp.asarray(prompts), state)
    if state is not None:
        raise ValueError("prompts of different lengths start documents; with a state, call prefill for each length")
    checks.not_empty("prompts", prompts)
    lengths = jnp.asarray(lengths)
    if lengths.shape != prompts.shape[:1]:
        raise ValueError(f"lengths must be one for each of {prompts.shape[0]} prompts, got shape {lengths.shape}")
    if checks.is_known(lengths) and (int(lengths.min()) < 1 or int(lengths.max()) > prompts.shape[1]):
        raise ValueError(f"lengths must be in [1, {prompts.shape[1]}], got {lengths.tolist()}")
    return _prefill_rows(model, params, jnp.asarray(prompts), lengths)


@functools.partial(jax.jit, static_argnums=0)
def _prefill(model, params, prompts, state):
    logits, state = model.apply(params, prompts, state)
    return logits[:, -1], state


@functools.partial(jax.jit, static_argnums=0)
def _prefill_rows(model, params, prompts, lengths):
    """Move each prompt to the end of its row and start a document with its first token: what is before is cleared."""
    first = (prompts.shape[1] - lengths)[:, None]
    steps = jnp.arange(prompts.shape[1])[None]
    moved = jnp.take_along_axis(prompts, (steps - first) % prompts.shape[1], axis=1)
    logits, state = model.apply(params, moved, reset=steps == first)
    return logits[:, -1], state


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
    ends: Int[ArrayLike, " E"] | Sequence[int] = (),
) -> tuple[Int[Array, "B num_tokens"], Float[Array, "B vocab_size"], State, PRNGKeyArray]:
    """Draw tokens one by one, starting from `logits`; return them and the (logits, state, key) to continue from.

    Args:
      temperature: divisor of the logits; 0 selects the likeliest token.
      top_p: draw from the smallest set of tokens whose probability reaches this (Holtzman et al., arXiv 1904.09751).
      allowed: True for the tokens that may be drawn, in any positions; None allows all.
      ends: tokens after which a row ends: the rest of its tokens repeats the one that it drew. The call ends when all
        rows have ended.

    Raises:
      ValueError: `logits` is empty, num_tokens is negative, or `allowed` has a wrong shape or dtype.
    """
    checks.not_empty("logits", logits)
    if num_tokens < 0:
        raise ValueError(f"num_tokens must be at least 0, got {num_tokens}")
    sampling = temperature, top_p, allowed, jnp.asarray(ends, jnp.int32).reshape(-1)
    tokens, *after = _generate(model, _room(num_tokens), params, logits, state, key, num_tokens, *sampling)
    return tokens[:, :num_tokens], *after


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(model, room, params, logits, state, key, num_tokens, temperature, top_p, allowed, ends):
    """Draw num_tokens <= room tokens."""
    rows = logits.shape[0]

    def unfinished(carry):
        step, ended, *_ = carry
        return (step < num_tokens) & ~ended.all()

    def step(carry):
        step, ended, tokens, logits, state, key = carry
        key, draw = jax.random.split(key)
        token = sample(draw, logits, temperature, top_p, allowed)
        token = jnp.where(ended, tokens[:, step - 1], token)
        logits, state = model.apply(params, token[:, None], state)
        tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, step))
        ended |= (token[:, None] == ends[None]).any(1)
        return step + 1, ended, tokens, logits[:, 0], state, key

    begin = 0, jnp.zeros(rows, bool), jnp.zeros((rows, room), jnp.int32), logits, state, key
    count, _, tokens, logits, state, key = jax.lax.while_loop(unfinished, step, begin)
    # Where all rows have ended before, each repeats its last token.
    last = jnp.take_along_axis(tokens, jnp.full((rows, 1), jnp.maximum(count - 1, 0)), axis=1)
    return jnp.where(jnp.arange(room)[None] < count, tokens, last), logits, state, key


def _room(size: int) -> int:
    """Return the smallest power of two that is at least SMALLEST and `size`."""
    return max(SMALLEST, 1 << max(int(size) - 1, 0).bit_length())


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
