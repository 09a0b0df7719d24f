"""Provides the rules that map published tensors to parameters and back, of which the families' tables consist.

A rule names published tensors and the parameters that they hold, and converts in both directions. Published matrices
are (out, in) and are applied from the left; ours are (in, out).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from recurrax.types import ArrayLike

Arrays = tuple[ArrayLike, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A correspondence between published tensors and parameters.

    `read` and `write` receive NumPy arrays, or JAX tracers when only shapes are computed.
    """

    theirs: tuple[str, ...]
    """Names in the checkpoint; empty: the parameters follow from the config alone."""
    ours: tuple[str, ...]
    """Paths of parameters, such as mixer/in_q."""
    read: Callable[[Arrays], Arrays]
    """Function from published tensors to parameters, each in the order of its names."""
    write: Callable[[Arrays], Arrays]
    """Function from parameters to published tensors, the inverse of `read`."""
    aliases: tuple[tuple[str, ...], ...] = ()
    """Alternative names of `theirs`, each tuple in its order; they are read but not written."""


def also(rule: Rule, *names: str) -> Rule:
    """Return the rule with one more tuple of alternative names for its published tensors."""
    return dataclasses.replace(rule, aliases=(*rule.aliases, names))


def same(theirs: str, ours: str) -> Rule:
    """Return the rule of one tensor that is unchanged."""
    return Rule((theirs,), (ours,), lambda arrays: arrays, lambda arrays: arrays)


def matrix(theirs: str, ours: str) -> Rule:
    """Return the rule of a matrix, which is transposed."""
    return _one(theirs, ours, lambda a: a.T, lambda a: a.T)


def conv(theirs: str, ours: str) -> Rule:
    """Return the rule of a depthwise convolution's kernel: (E, 1, W) published, (W, E) here."""
    return _one(theirs, ours, lambda a: a[:, 0].T, lambda a: a.T[:, None])


def reshaped(theirs: str, ours: str, published: Sequence[int], shape: Sequence[int]) -> Rule:
    """Return the rule of a tensor that is reshaped from `published` to `shape`."""
    return _one(theirs, ours, lambda a: a.reshape(shape), lambda a: a.reshape(published))


def centred(theirs: str, ours: str) -> Rule:
    """Return the rule of a norm's scale that is published as scale - 1."""
    return _one(theirs, ours, lambda a: 1 + a, lambda a: a - 1)


def fused(theirs: str, parts: Mapping[str, int], *, axis: int = 0, turn: bool = True) -> Rule:
    """Return the rule of parameters (name -> size) that are concatenated on an axis and, with `turn`, transposed."""
    ends = np.cumsum(list(parts.values()))[:-1].tolist()

    def read(arrays):
        pieces = np.split(arrays[0], ends, axis=axis)
        return tuple(piece.T for piece in pieces) if turn else tuple(pieces)

    def write(arrays):
        return (concatenate([a.T for a in arrays] if turn else arrays, axis),)

    return Rule((theirs,), tuple(parts), read, write)


def fused_conv(theirs: str, parts: Mapping[str, int]) -> Rule:
    """Return the rule of depthwise convolutions' kernels (W, E), published as one kernel (E, 1, W) for all channels."""
    whole = fused("", parts)
    return Rule(
        (theirs,),
        tuple(parts),
        lambda arrays: whole.read((arrays[0][:, 0],)),
        lambda arrays: (whole.write(arrays)[0][:, None],),
    )


def by_head(theirs: str, parts: Mapping[str, int], heads: int) -> Rule:
    """Return the rule of matrices published as one whose rows are grouped by head; `parts`: name -> rows per head."""
    ends = np.cumsum(list(parts.values()))[:-1].tolist()

    def read(arrays):
        rows = arrays[0].reshape(heads, -1, arrays[0].shape[-1])
        return tuple(piece.reshape(-1, piece.shape[-1]).T for piece in np.split(rows, ends, axis=1))

    def write(arrays):
        pieces = [a.T.reshape(heads, -1, a.shape[0]) for a in arrays]
        return (concatenate(pieces, 1).reshape(-1, arrays[0].shape[0]),)

    return Rule((theirs,), tuple(parts), read, write)


def stacked(theirs: Sequence[str], ours: str) -> Rule:
    """Return the rule of published matrices of one shape, transposed and stacked on a leading axis."""
    return Rule(
        tuple(theirs),
        (ours,),
        lambda arrays: (np.stack([a.T for a in arrays]),),
        lambda arrays: tuple(arrays[0][i].T for i in range(len(theirs))),
    )


def embedding_and_head(tied_head: bool, embedding: str, *aliases: str) -> list[Rule]:
    """Return the rule of the embedding, and that of the head unless it is tied to the embedding.

    `aliases` are alternative names of the embedding.
    """
    head, table = "lm_head.weight", same(embedding, "embedding")
    # A table that two modules share may be saved under the name of either.
    for name in (*aliases, *((head,) if tied_head else ())):
        table = also(table, name)
    return [table] if tied_head else [table, matrix(head, "out_kernel")]


def ends(
    tied_head: bool, embedding: str, norm: str, scale: Callable[[str, str], Rule] = same, aliases: Sequence[str] = ()
) -> list[Rule]:
    """Return the rules of the embedding, the head and the final norm."""
    return [*embedding_and_head(tied_head, embedding, *aliases), scale(norm, "backbone/norm/scale")]


GLU_NAMES = ("gate_proj", "up_proj", "down_proj")


def glu(theirs: str, ours: Sequence[str] = ("in_gate", "in_kernel", "out_kernel")) -> list[Rule]:
    """Return the rules of the three matrices of a block's gated linear unit."""
    names = zip(GLU_NAMES, ours, strict=True)
    return [matrix(f"{theirs}.{name}.weight", f"projection/{kernel}") for name, kernel in names]


def shared_expert(theirs: str) -> list[Rule]:
    """Return the rules of the three matrices of a mixture's shared expert."""
    return glu(theirs, ("in_shared_gate", "in_shared_kernel", "out_shared_kernel"))


def experts(theirs: str, count: int, names: Sequence[str] = GLU_NAMES) -> list[Rule]:
    """Return the rules of a mixture's experts, whose matrices are published one by one."""
    kernels = ("in_gates", "in_kernels", "out_kernels")
    return [
        stacked([f"{theirs}.{i}.{name}.weight" for i in range(count)], f"projection/{kernel}")
        for name, kernel in zip(names, kernels, strict=True)
    ]


def concatenate(arrays: Sequence[ArrayLike], axis: int) -> ArrayLike:
    """Concatenate arrays with NumPy, or with JAX if any of them is a tracer."""
    module = jnp if any(isinstance(a, jax.core.Tracer) for a in arrays) else np
    return module.concatenate(arrays, axis)


def _one(theirs, ours, read, write):
    return Rule((theirs,), (ours,), lambda arrays: (read(arrays[0]),), lambda arrays: (write(arrays[0]),))
