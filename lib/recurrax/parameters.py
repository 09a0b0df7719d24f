"""Declare what a parameter is: initializer, shape, the logical axis of each dimension, and its role.

    "in_kernel": Parameter(fan_in, (d, e), ("embed", "heads"))

Every module that has parameters has a table of them by name, and creates them with `declare`. How a parameter is
sharded, whether it is decayed, how fast it is trained, in which dtype its gradient is summed and what is printed of it
follow from this declaration and from nothing else. `recurrax.models.parameters` collects the tables of a whole model.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recurrax import checks
from recurrax.types import Params, PyTree

AXES = {
    "embed": "the model's width, D",
    "heads": "the width of all heads or channels within a layer",
    "hidden": "hidden units of a projection",
    "vocab": "tokens",
    "outputs": "classes or targets",
    "inner": "a width within a layer that a small matrix reads or writes",
    "latent": "a latent vector that is expanded to heads",
    "blocks": "blocks of a block-diagonal matrix",
    "block": "rows of one block",
    "experts": "experts of a mixture",
    "channels": "channels or heads that have coefficients of their own, such as a decay",
    "state": "states of one channel",
    "layers": "layers that a scan over depth stacks",
}
"""Names of logical axes and what they index. None is an axis without a name, which is never split."""

ROLES = {
    "matrix": "a matrix between two widths",
    "embedding": "a table of vectors, one per token",
    "head": "the matrix that computes a model's outputs",
    "vector": "a scale, a bias, the taps of a short convolution, the read-out of one channel",
    "recurrence": "what decay factors, step sizes, phases or a state's inputs are computed from",
}
"""Roles of parameters: what optimizers and parametrisations treat alike."""

DECAYED = ("matrix", "head")
"""Roles to which weight decay applies unless a parameter says otherwise."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a layer.

    Raises:
      ValueError: the axes are not one for each dimension, an axis or the role is unknown, or the learning rate's factor
        is not positive.
    """

    init: Callable[..., jax.Array] | None
    """Initializer: (key, shape, dtype) -> array. None in the tree of a model, whose `init` creates the arrays."""
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    """Logical axis of each dimension, one of AXES or None."""
    role: str = "matrix"
    """One of ROLES."""
    decayed: bool | None = None
    """Whether weight decay applies; None: by the role, to those in DECAYED."""
    learning_rate: float = 1.0
    """Factor of the learning rate."""
    wide: bool = False
    """Whether the layer computes with it in float32 whatever the dtype of activations, as with a mixture's router."""

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "axes", tuple(self.axes))
        if len(self.axes) != len(self.shape):
            raise ValueError(f"axes {self.axes} must be one for each dimension of the shape {self.shape}")
        for axis in self.axes:
            if axis is not None:
                checks.choice("axis", axis, AXES)
        checks.choice("role", self.role, ROLES)
        checks.positive(self, "learning_rate")

    @property
    def is_decayed(self) -> bool:
        """Whether weight decay applies."""
        return self.role in DECAYED if self.decayed is None else self.decayed


def reads(init: Callable[..., jax.Array], dim: int, width: int, axis: str = "heads") -> Parameter:
    """Return a matrix (D, width) that reads the residual stream."""
    return Parameter(init, (dim, width), ("embed", axis))


def writes(init: Callable[..., jax.Array], width: int, dim: int, axis: str = "heads") -> Parameter:
    """Return a matrix (width, D) that writes to the residual stream."""
    return Parameter(init, (width, dim), (axis, "embed"))


def expands(init: Callable[..., jax.Array], rank: int, width: int) -> Parameter:
    """Return the second matrix (R, width) of two, the first of which has few columns."""
    return Parameter(init, (rank, width), (None, "inner"))


def vector(init: Callable[..., jax.Array], size: int, axis: str = "heads") -> Parameter:
    """Return a scale or a bias over one axis."""
    return Parameter(init, (size,), (axis,), "vector")


def rate(init: Callable[..., jax.Array], *shape: int) -> Parameter:
    """Return what a recurrence computes a coefficient of each channel from: (channels,) or (channels, states)."""
    return Parameter(init, shape, ("channels", "state")[: len(shape)], "recurrence")


def flat(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a tree by their paths, such as backbone/groups/0_gla/mixer/in_q."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree of leaves by path, the inverse of `flat` for trees of dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


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


def declare(module: nn.Module, table: Mapping[str, Parameter]) -> Params:
    """Create or look up the module's parameters, in float32, also with `jax_enable_x64`.

    Raises:
      ValueError: an entry of the table is not a Parameter.
    """
    for name, parameter in table.items():
        if not isinstance(parameter, Parameter):
            raise ValueError(f"{type(module).__name__} declares {name} as {parameter!r}; it must be a Parameter")
    found = _FOUND.get()
    if found is not None:
        found.update({"/".join((*module.path, name)): parameter for name, parameter in table.items()})
    return {name: _value(module, name, parameter) for name, parameter in table.items()}


def _value(module, name, parameter):
    """Return the parameter that the module was given or, while it is initialised, creates."""
    if module.has_variable("params", name):
        value = nn.unbox(module.get_variable("params", name))
        # Flax compares shapes too, but traces the initializer for its own: a twentieth of the time of tracing a model.
        if jnp.shape(value) == parameter.shape:
            return value
    return module.param(name, parameter.init, parameter.shape, jnp.float32)
