"""Compares a contestant with a float64 oracle, and at full size with our reference."""

import jax
import jax.numpy as jnp
import numpy as np

from eval.bench.contestants import Benchmark, Contestant
from eval.bench.programs import Program, compile_jax


class Examination:
    """The inputs of one table and the correct results, which are computed once for all contestants."""

    def __init__(self, benchmark: Benchmark, sizes: tuple[int, ...], dtype: str, direction: str):
        self.direction = direction
        self.tolerance = 2e-2 if jnp.finfo(dtype).bits < 32 else 1e-5
        self.inputs = benchmark.inputs(sizes, dtype)
        reference = compile_jax(benchmark.reference.run, direction, self.inputs)
        self.expected = jax.tree.map(reference.to_numpy, reference.call())

        small = tuple(min(size, limit) for size, limit in zip(sizes, benchmark.oracle_sizes, strict=True))
        self.small_inputs = self.inputs if small == sizes else benchmark.inputs(small, dtype)
        # The oracle gets the rounded numbers that the contestant gets.
        wide = (np.complex128 if jnp.iscomplexobj(v) else np.float64 for v in self.small_inputs)
        outputs, gradients = benchmark.oracle(*map(np.asarray, self.small_inputs, wide))
        self.truth = outputs if direction == "forward" else (outputs, gradients)

    def oracle_error(self, contestant: Contestant, program: Program) -> float:
        """Return the error at a size that a step-by-step oracle can do; `program` is that of the full size."""
        if self.small_inputs is not self.inputs:
            program = contestant.start(contestant.run, self.direction, self.small_inputs)
        return _error(program, self.truth)

    def reference_error(self, program: Program) -> float:
        return _error(program, self.expected)


def _error(program, truth) -> float:
    """Return the worst over all arrays of largest |error| / largest |truth|; infinite for other shapes and for NaN."""
    got, want = [program.to_numpy(v) for v in jax.tree.leaves(program.call())], jax.tree.leaves(truth)
    if [np.shape(v) for v in got] != [np.shape(v) for v in want]:
        return float("inf")
    return max(_array_error(g, np.asarray(w)) for g, w in zip(got, want, strict=True))


def _array_error(got, want):
    if not np.iscomplexobj(got):
        got, want = got.astype(np.float64), np.real(want).astype(np.float64)
    error = np.max(np.abs(got - want)) / max(np.max(np.abs(want)), 1e-30)
    return float(error) if np.isfinite(error) else float("inf")
