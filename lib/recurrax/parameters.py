"""Declare what a parameter is: initializer, shape, the logical axis of each dimension, and its role.

    "in_kernel": Parameter(fan_in, (d, e), ("embed", "heads"))

A layer has a table of its parameters by name, and creates them with `declare`. So far nothing else reads axes, roles,
weight decay and learning rates: the training program still goes by the paths of parameters.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

from recurrax import checks
from recurrax.types import Params

AXES = {
    "embed": "the model's width, D",
    "heads": "the width of all heads, or the channels within a layer",
    "hidden": "hidden units of a projection",
    "vocab": "tokens, classes or targets",
    "experts": "experts of a mixture",
    "state": "states of a recurrence",
    "channels": "channels that a small matrix reads or writes, like heads, but replicated where they do not divide",
    "latent": "a latent vector that is expanded to heads",
    "blocks": "blocks of a block-diagonal matrix",
    "block": "rows of one block",
    "layers": "layers that a scan over depth stacks",
}
"""Names of logical axes and what they index. None is an axis without a name, which is never split."""

ROLES = {
    "matrix": "a matrix between two widths",
    "embedding": "a table of vectors, one per token",
    "head": "the matrix that computes a model's outputs",
    "vector": "a scale, a bias, the taps of a short convolution",
    "recurrence": "what decay factors, step sizes, phases or a state's inputs are computed from",
}
"""Roles of parameters: what optimizers and parametrisations treat alike."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a layer.

    Raises:
      ValueError: the axes are not one for each dimension, or an axis or the role is unknown.
    """

    init: Callable[..., jax.Array]
    """Initializer: (key, shape, dtype) -> array."""
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    """Logical axis of each dimension, one of AXES or None."""
    role: str = "matrix"
    """One of ROLES."""
    decayed: bool | None = None
    """Whether weight decay applies; None: to matrices and heads."""
    learning_rate: float = 1.0
    """Factor of the learning rate."""

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "axes", tuple(self.axes))
        if len(self.axes) != len(self.shape):
            raise ValueError(f"axes {self.axes} must be one for each dimension of the shape {self.shape}")
        for axis in self.axes:
            if axis is not None:
                checks.choice("axis", axis, AXES)
        checks.choice("role", self.role, ROLES)

    @property
    def is_decayed(self) -> bool:
        """Whether weight decay applies."""
        return self.role in ("matrix", "head") if self.decayed is None else self.decayed


_FOUND: contextvars.ContextVar[dict[str, Parameter] | None] = contextvars.ContextVar("declared", default=None)


@contextlib.contextmanager
def recording() -> Iterator[dict[str, Parameter]]:
    """Collect what `declare` declares within this context, by path."""
    found: dict[str, Parameter] = {}
    token = _FOUND.set(found)
    try:
        yield found
    finally:
        _FOUND.reset(token)


def declare(module: nn.Module, table: dict) -> Params:
    """Create or look up the module's parameters, in float32, also with `jax_enable_x64`.

    An entry of the table is a `Parameter`, or a tuple of an initializer, a shape and further arguments of the
    initializer, of which neither axes nor role are known.
    """
    table = {name: p if isinstance(p, Parameter) else _from_tuple(*p) for name, p in table.items()}
    found = _FOUND.get()
    if found is not None:
        found.update({"/".join((*module.path, name)): parameter for name, parameter in table.items()})
    return {name: module.param(name, p.init, p.shape, jnp.float32) for name, p in table.items()}


def _from_tuple(init, shape, *arguments):
    """Return a Parameter without axes; its role is the default and says nothing."""
    return Parameter(lambda key, shape, dtype: init(key, shape, *arguments, dtype=dtype), shape, (None,) * len(shape))
