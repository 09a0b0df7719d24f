"""Provide the benchmark of each op: our implementations, what one would write without them, and the truth in NumPy."""

from eval.bench.contestants.base import Benchmark, Contestant
from eval.bench.contestants.convolutions import CONVOLUTIONS
from eval.bench.contestants.diagonal import DIAGONAL_SCAN
from eval.bench.contestants.matrix_state import MATRIX_STATE
from eval.bench.contestants.vector_state import SELECTIVE_SCAN, STATE_SPACE

BENCHMARKS = (DIAGONAL_SCAN, *MATRIX_STATE, SELECTIVE_SCAN, *STATE_SPACE, *CONVOLUTIONS)

__all__ = ["BENCHMARKS", "DIAGONAL_SCAN", "MATRIX_STATE", "Benchmark", "Contestant"]
