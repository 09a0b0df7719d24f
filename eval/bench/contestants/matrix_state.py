"""Provide the tables of the ops with matrix states: one per op and kind of decay, for shapes (B, T, H, K, V)."""

import functools
import math
from typing import NamedTuple

import jax
import numpy as np

from eval import oracles
from eval.bench import shapes
from eval.bench.contestants import chunked, fla, stepwise
from eval.bench.contestants.base import Benchmark, Contestant, oracle_truth, our_contestant, too_many
from recurrax import ops

RANK = 2
"""R of delta_product."""


class Variant(NamedTuple):
    """An op with one kind of decay: "" for none, "scalar" for one gate per head, "channel" for one per key channel."""

    op: str
    decay: str

    @property
    def name(self) -> str:
        return f"{self.op}/{self.decay}" if self.decay else self.op

    def shapes(self, sizes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the op's arguments by name, in their order."""
        batch, length, heads, key, value = sizes
        times, per_channel = (batch, length), (batch, length, heads, key)
        steps = (*times, RANK) if self.op == "delta_product" else times
        found = {"q": per_channel, "k": (*steps, heads, key), "v": (*steps, heads, value)}
        if self.op in ("delta_rule", "delta_product"):
            found["beta"] = (*steps, heads)
        if self.op == "dplr_rule":
            found |= {"a": per_channel, "b": per_channel}
        if self.decay:
            found["log_decay"] = per_channel if self.decay == "channel" else (*times, heads)
        return found

    def draw(self, rng: np.random.Generator, sizes: tuple[int, ...], is_complex: bool) -> tuple[np.ndarray, ...]:
        """Keys of length 1, factors of decay sigmoid(normal + 4), strengths sigmoid(normal), and normal q and v.

        a = -kappa and b = kappa * eta are RWKV-7's, with kappa of length 1 and eta of sigmoid(normal).
        """
        x = {name: rng.standard_normal(shape) for name, shape in self.shapes(sizes).items()}
        x["k"] /= np.linalg.norm(x["k"], axis=-1, keepdims=True)
        if "beta" in x:
            x["beta"] = 1 / (1 + np.exp(-x["beta"]))
        if "a" in x:
            x["a"] /= -np.linalg.norm(x["a"], axis=-1, keepdims=True)
            x["b"] = -x["a"] / (1 + np.exp(-x["b"]))
        if "log_decay" in x:
            x["log_decay"] = -np.logaddexp(0, -(x["log_decay"] + 4))
        return tuple(x.values())

    def oracle(self, *inputs: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Return the output and gradients of the oracle, the function of the op's name in `eval.oracles`."""
        sizes = (*inputs[0].shape, inputs[2].shape[-1])
        return oracle_truth(getattr(oracles, self.op), dict(zip(self.shapes(sizes), inputs, strict=True)))

    def numbers_moved(self, sizes: tuple[int, ...], direction: str) -> int:
        """Count: forward reads the arguments and writes o; backward reads these and writes the gradients."""
        read = sum(map(math.prod, self.shapes(sizes).values()))
        written = math.prod(self.shapes(sizes)["q"][:3]) * sizes[-1]
        return read + written if direction == "forward" else 3 * read + 2 * written

    def operations(self, sizes: tuple[int, ...], direction: str) -> int:
        """2 K V for each vector by which a token and head reads or writes a state; three times that with backward.

        All write with k and read with q, the delta rules read with each k too, dplr_rule reads with a and writes with
        b. Chunked forms compute more than that; decays and gates are not counted.
        """
        vectors = {"linear_attention": 2, "delta_rule": 3, "delta_product": 1 + 2 * RANK, "dplr_rule": 4}[self.op]
        return 2 * vectors * math.prod(sizes) * (1 if direction == "forward" else 3)


# What others write to compute the op itself, and its step and transition for the two forms of the textbook.
CHUNKED = {
    "linear_attention": chunked.linear_attention,
    "delta_rule": chunked.delta_rule,
    "delta_product": chunked.delta_product,
}
STEPS = {
    "linear_attention": (stepwise.write_linear_attention, stepwise.step_linear_attention),
    "delta_rule": (stepwise.write_delta_rule, stepwise.step_delta_rule),
    "delta_product": (stepwise.write_delta_product, stepwise.step_delta_product),
    "dplr_rule": (stepwise.write_dplr_rule, stepwise.step_dplr_rule),
}
MOST_ELEMENTS, MOST_SCORES = 2**26, 2**30


def _peers(variant):
    write, transition = STEPS[variant.op]
    is_diagonal = variant.op == "linear_attention"
    yield Contestant("lax.scan", stepwise.lax_scan(write))
    yield Contestant(
        "lax.associative_scan",
        stepwise.lax_associative_scan(transition, is_diagonal),
        refuses=functools.partial(_refuse_elements, is_diagonal),
    )
    if variant.op in CHUNKED:
        yield Contestant("chunk-parallel", CHUNKED[variant.op])
    yield from fla.contestants(variant.op, variant.decay)
    yield Contestant("softmax attention", _attention, other=True, refuses=_refuse_attention)


def _refuse_elements(is_diagonal, sizes):
    batch, length, heads, key, value = sizes
    numbers = batch * length * heads * (key if is_diagonal else key**2) + math.prod(sizes)
    return too_many(numbers, "its elements", MOST_ELEMENTS)


def _attention(q, k, v, *rest):
    """Causal softmax attention over the same tokens; of several steps per token, over the first."""
    if k.ndim > q.ndim:
        k, v = k[:, :, 0], v[:, :, 0]
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def _refuse_attention(sizes):
    batch, length, heads, key, value = sizes
    if key != value:
        return f"jax.nn.dot_product_attention needs K = V, got {key} and {value}"
    return too_many(batch * heads * length**2, "its scores", MOST_SCORES)


def _benchmark(variant):
    ours = functools.partial(our_contestant, getattr(ops, variant.op))
    return Benchmark(
        op=variant.name,
        dims=("B", "T", "H", "K", "V"),
        shapes=shapes.MATRIX_STATE,
        oracle_sizes=(2, 97, 2, 16, 32),  # a chunk and a half of the peers', three of ours
        dtypes=("float32", "bfloat16"),
        draw=variant.draw,
        oracle=variant.oracle,
        numbers_moved=variant.numbers_moved,
        operations=variant.operations,
        reference=ours("reference"),
        contestants=(*map(ours, (None, *ops.OPS[variant.op].implementations)), *_peers(variant)),
    )


VARIANTS = (
    *(Variant("linear_attention", decay) for decay in ("", "scalar", "channel")),
    *(Variant("delta_rule", decay) for decay in ("", "scalar", "channel")),
    Variant("delta_product", "scalar"),
    Variant("dplr_rule", "channel"),
)
MATRIX_STATE = tuple(map(_benchmark, VARIANTS))
