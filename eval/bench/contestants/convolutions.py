"""Provide the tables of the causal convolutions."""

import math

from jax import lax

from eval.bench import shapes
from eval.bench.contestants.base import Contestant, of_op, too_many
from eval.bench.programs import exactness


def _depthwise(x, kernel, bias=None):
    """Convolve by XLA's own grouped convolution."""
    width, dim = kernel.shape
    y = lax.conv_general_dilated(
        x,
        kernel[:, None],
        (1,),
        [(width - 1, 0)],
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=dim,
        precision=exactness(x.dtype),
    )
    return y if bias is None else y + bias[None, None]


def _filter(x, kernel):
    """Convolve with filters (D, W) whose first tap applies to the current input."""
    return _depthwise(x, kernel[:, ::-1].T)


def _taps_operations(sizes, direction):
    """Count one multiplication and addition per tap; three times that with backward."""
    return 2 * math.prod(sizes) * (1 if direction == "forward" else 3)


def _refuse_taps(sizes):
    """Refuse what would take minutes: XLA's grouped convolution on a CPU reaches 0.1 GFLOP/s."""
    return too_many(math.prod(sizes), "its multiplications", 2**31)


CONVOLUTIONS = (
    of_op(
        "causal_conv1d",
        dims=("B", "T", "D", "W"),
        shapes=shapes.CAUSAL_CONV1D,
        oracle_sizes=(2, 97, 8, 4),
        operations=_taps_operations,
        peers=(Contestant("lax.conv_general_dilated", _depthwise),),
    ),
    of_op(
        "long_convolution",
        dims=("B", "T", "D", "W"),
        shapes=shapes.LONG_CONVOLUTION,
        oracle_sizes=(2, 97, 8, 97),
        operations=_taps_operations,
        peers=(Contestant("lax.conv_general_dilated", _filter, refuses=_refuse_taps),),
    ),
)
