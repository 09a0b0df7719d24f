"""The named sizes at which ops are timed and tested. Imports nothing of the library."""

from typing import NamedTuple


class Shape(NamedTuple):
    """A name for the sizes of an op's dimensions, in the order of the op's `dims`."""

    name: str
    sizes: tuple[int, ...]


# (B, T, D): a batch, one long sequence, and arrays of 4 MiB that stay in a CPU's cache.
DIAGONAL_SCAN = (
    Shape("batch", (8, 2048, 512)),
    Shape("long", (1, 16_384, 512)),
    Shape("cached", (1, 1024, 1024)),
)

# (B, T, H, K, V) of the ops of matrix states: a batch, and one long sequence.
MATRIX_STATE = (
    Shape("batch", (4, 2048, 4, 64, 64)),
    Shape("long", (1, 8192, 8, 64, 64)),
)
