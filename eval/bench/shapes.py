"""Provides the named sizes at which ops are timed and tested. It imports nothing from the library."""

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

# (B, T, E, N): Mamba's inner width and states.
SELECTIVE_SCAN = (Shape("batch", (4, 2048, 256, 16)), Shape("long", (1, 8192, 256, 16)))

# (B, T, D, N, M): channels, states and outputs of time-invariant systems.
STATE_SPACE = (Shape("batch", (4, 2048, 64, 32, 1)), Shape("long", (1, 16_384, 64, 32, 1)))

# (B, T, D, W): the short convolution of most blocks, and filters as long as the sequence.
CAUSAL_CONV1D = (Shape("batch", (8, 2048, 512, 4)), Shape("long", (1, 16_384, 512, 4)))
LONG_CONVOLUTION = (Shape("batch", (4, 2048, 64, 2048)), Shape("long", (1, 16_384, 64, 16_384)))

ON_CHIP = {
    ("B", "T", "D"): (1, 4096, 1024),
    ("B", "T", "H", "K", "V"): (1, 4096, 8, 128, 128),
    ("B", "T", "E", "N"): (1, 4096, 1024, 16),
    ("B", "T", "D", "N", "M"): (1, 4096, 256, 32, 1),
    ("B", "T", "D", "W"): (1, 4096, 1024, 4),
}
"""The sizes at which ops are compiled for accelerators, by their letters."""
