"""Run an op and its oracle on the same rounded numbers, and measure how far apart they are."""

import concurrent.futures
import functools
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.accuracy.cases import Case
from eval.accuracy.regimes import Regime

NOTHING = 1e-6
"""Inputs and cotangents are of size 1; where the truth is smaller than this, errors are relative to this instead."""


class Row(NamedTuple):
    """The errors of one implementation in one regime, by the names of outputs and gradients."""

    op: str
    dtype: str
    implementation: str
    variant: str
    regime: str
    outputs: dict[str, float]
    gradients: dict[str, float]


class Group(NamedTuple):
    """Measurements that share compiled programs, one per implementation."""

    case: Case
    dtype: str
    variant: str
    length: int
    regimes: tuple[Regime, ...]
    implementations: tuple[str, ...]


def groups(
    cases: Sequence[Case],
    dtypes: Sequence[str],
    regimes: Sequence[Regime],
    implementations: Sequence[str],
    lengths: tuple[int, int],
) -> list[Group]:
    """Return all measurements; `lengths` are the usual and the longer one."""
    found = []
    for case in cases:
        chosen = tuple(name for name in case.implementations if name in implementations)
        for dtype in dtypes:
            for variant in case.variants:
                for is_long in (False, True):
                    its = tuple(r for r in regimes if r.is_long == is_long and case.has(variant, dtype, r))
                    if its and chosen:
                        found.append(Group(case, dtype, variant, lengths[is_long], its, chosen))
    return found


def measure(todo: Sequence[Group]) -> Iterator[list[Row]]:
    """Yield the rows of each group, in order."""
    # XLA compiles in one thread while the other runs an oracle; either takes about half of the time.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield from pool.map(_rows, todo)


def error(got: jax.Array, want: np.ndarray) -> float:
    """Return ||got - want|| / max(||want||, NOTHING sqrt(n)) over n elements; infinite if something is not finite."""
    got = np.asarray(got).astype(want.dtype)
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), NOTHING * want.size**0.5))


def _rows(group):
    case, programs, rows = group.case, {}, []
    for regime in group.regimes:
        drawn, cotangents = _numbers(group, regime)
        truths = {}
        for name in group.implementations:
            has_state = name not in case.without_state
            inputs = drawn if has_state else {**drawn, case.state: None}
            if has_state not in truths:
                truths[has_state] = case.oracle(_wide(inputs), cotangents=_wide(cotangents))
            if name not in programs:
                program = jax.jit(functools.partial(_evaluate, case.run, name))
                programs[name] = program.lower(inputs, cotangents).compile()
            outputs, gradients = programs[name](inputs, cotangents)
            *wanted, wanted_gradients = truths[has_state]
            output_errors = {n: error(*pair) for n, *pair in zip(case.outputs, outputs, wanted, strict=True)}
            given = [n for n, value in inputs.items() if value is not None]
            gradient_errors = {f"d{n}": error(gradients[n], wanted_gradients[n]) for n in given}
            rows.append(
                Row(case.op, group.dtype, name, group.variant, regime.name, output_errors, gradient_errors),
            )
    return rows


def _evaluate(run, implementation, inputs, cotangents):
    """Return the outputs, and the gradients by the names of the inputs."""
    outputs, pullback = jax.vjp(lambda inputs: run(**inputs, implementation=implementation), inputs)
    return outputs, pullback(cotangents)[0]


def _numbers(group, regime):
    """Return inputs and cotangents, the same for all implementations and whatever else is measured."""
    rng = np.random.default_rng(zlib.crc32(f"{group.case.op} {group.variant} {regime.name}".encode()))

    def rounded(name, value):
        # A state that is carried from an earlier call is float32 at least.
        dtype = jnp.promote_types(group.dtype, jnp.float32) if name == group.case.state else jnp.dtype(group.dtype)
        return jnp.asarray(value, jnp.complex64 if np.iscomplexobj(value) else dtype)

    def normal(like):
        value = rng.standard_normal(like.shape)
        if jnp.issubdtype(like.dtype, jnp.complexfloating):
            value = value + 1j * rng.standard_normal(like.shape)
        return jnp.asarray(value, like.dtype)

    drawn = group.case.draw(rng, regime, group.variant, group.length)
    inputs = {name: None if value is None else rounded(name, value) for name, value in drawn.items()}
    outputs = jax.eval_shape(lambda inputs: group.case.run(**inputs, implementation="reference"), inputs)
    return inputs, tuple(map(normal, outputs))


def _wide(numbers):
    """Return the same numbers in float64 or complex128."""
    return jax.tree.map(lambda x: np.asarray(x).astype(np.promote_types(x.dtype, np.float64)), numbers)
