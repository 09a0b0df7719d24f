"""Provide sites: named arrays within a model's program, which `recurrax.probes` records and replaces.

    x = visit(module, "stream_before", x, depth.index)

A visit returns x itself, and adds nothing to the program, unless a probe is active. The key of a site is the path of
its module and its name: "backbone/groups/0_gla/stream_before". Under the scan over depth a site is traced once for all
repeats of the pattern; `index`, the number of the block, says at run time which of them it is.
"""

import contextlib
import contextvars
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
from jax.extend.core import get_opaque_trace_state

from recurrax.types import Array, PyTree, Scalar

COLLECTION = "sites"
"""The Flax collection by which recorded arrays leave the model; the scan over depth stacks it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """What happens at the sites of a model."""

    records: Callable[[str], bool]
    """Whether the array at this key is recorded, after its replacement."""
    replaced: Mapping[str, Callable[[Array, Scalar | None], Array]] = dataclasses.field(default_factory=dict)
    """Functions (array, index of the block) -> array of the same shape and dtype, by key."""


class Visitor(Protocol):
    """What is called at each mark within a layer's formula."""

    def __call__(self, name: str, x: Array) -> Array: ...


# JAX's caches of traced functions depend on this value, so that a function that was traced without a probe is traced
# again. It is a weak reference: the caches keep it, and must not keep arrays that the functions of a probe refer to.
_PROBE = jax.make_user_context(None)
_LAYER: contextvars.ContextVar[tuple[Visitor, Any] | None] = contextvars.ContextVar("layer", default=None)


@contextlib.contextmanager
def probing(probe: Probe) -> Iterator[None]:
    """Let the probe act on models that are applied within this context."""
    with _PROBE(weakref.ref(probe)):
        yield


def visit(module: nn.Module, name: str, x: PyTree, index: Scalar | None = None) -> PyTree:
    """Return x, recorded or replaced if a probe says so. The leaves of a tree are sites of their own, "name/path"."""
    if _PROBE.value is None:
        return x
    probe = _PROBE.value()

    def leaf(path, x):
        own = "/".join(filter(None, (name, jax.tree_util.keystr(path, simple=True, separator="/"))))
        key = "/".join((*module.path, own))
        if key in probe.replaced:
            with _PROBE(None):  # the function may apply models itself
                x = probe.replaced[key](x, index)
        if probe.records(key) and module.is_mutable_collection(COLLECTION):
            module.put_variable(COLLECTION, own, x)
        return x

    return jax.tree_util.tree_map_with_path(leaf, x)


@contextlib.contextmanager
def layer(module: nn.Module, index: Scalar | None = None) -> Iterator[None]:
    """Make the marks within this context sites of the module; one that occurs again gets a number: "keys_1"."""
    if _PROBE.value is None:
        yield
        return
    found: dict[str, int] = {}

    def each(name, x):
        found[name] = count = found.get(name, -1) + 1
        return visit(module, f"{name}_{count}" if count else name, x, index)

    with _calling(each):
        yield


@contextlib.contextmanager
def marks() -> Iterator[dict[str, list[Array]]]:
    """Collect the marked arrays of a layer whose function is called within this context."""
    found: dict[str, list[Array]] = {}

    def each(name, x):
        found.setdefault(name, []).append(x)
        return x

    with _calling(each):
        yield found


def marked(name: str, x: Array) -> Array:
    """Return x, a mark within the formula of the layer that is being called."""
    each, trace = _LAYER.get() or (None, None)
    # Inside of a function that JAX transforms, such as a loop's body, the array does not exist for the layer.
    return x if each is None or _trace() != trace else each(name, x)


@contextlib.contextmanager
def _calling(each):
    token = _LAYER.set((each, _trace()))
    try:
        yield
    finally:
        _LAYER.reset(token)


def _trace():
    return get_opaque_trace_state(convention="flax")
