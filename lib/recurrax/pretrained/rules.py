"""How published tensors and parameters correspond: the entries that the families' tables are made of.

A rule names some published tensors and the parameters that they hold, and turns one into the other, both ways.
Published matrices are (out, in) and are applied from the left; ours are (in, out).
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
    """These published tensors are these parameters.

    `read` and `write` see NumPy arrays, or JAX's abstract ones where only shapes are asked for.
    """

    theirs: tuple[str, ...]
    """Names in the checkpoint; none: the parameters follow from the config alone."""
    ours: tuple[str, ...]
    """Paths of parameters, such as mixer/in_q."""
    read: Callable[[Arrays], Arrays]
    """Published tensors -> parameters, in the order of the names."""
    write: Callable[[Arrays], Arrays]
    """Parameters -> published tensors."""
    aliases: tuple[tuple[str, ...], ...] = ()
    """Other names that files may have in place of `theirs`, each in its order; they are read but not written."""


def also(rule: Rule, *names: str) -> Rule:
    """Return the rule with one more set of names that files may have in place of its own."""
    return dataclasses.replace(rule, aliases=(*rule.aliases, names))


def same(theirs: str, ours: str) -> Rule:
    """One vector, table or number as it is."""
    return Rule((theirs,), (ours,), lambda arrays: arrays, lambda arrays: arrays)


def matrix(theirs: str, ours: str) -> Rule:
    """A matrix, transposed."""
    return _one(theirs, ours, lambda a: a.T, lambda a: a.T)


def conv(theirs: str, ours: str) -> Rule:
    """The kernel of a depthwise convolution, (E, 1, W) and (W, E)."""
    return _one(theirs, ours, lambda a: a[:, 0].T, lambda a: a.T[:, None])


def reshaped(theirs: str, ours: str, published: Sequence[int], shape: Sequence[int]) -> Rule:
    """The same numbers in the same order in another shape."""
    return _one(theirs, ours, lambda a: a.reshape(shape), lambda a: a.reshape(published))


def centred(theirs: str, ours: str) -> Rule:
    """A norm's scale that is published as what it has above 1."""
    return _one(theirs, ours, lambda a: 1 + a, lambda a: a - 1)


def fused(theirs: str, parts: Mapping[str, int], *, axis: int = 0, turn: bool = True) -> Rule:
    """Several parameters, each of that size, side by side along an axis of one tensor; transposed unless not `turn`."""
    ends = np.cumsum(list(parts.values()))[:-1].tolist()

    def read(arrays):
        pieces = np.split(arrays[0], ends, axis=axis)
        return tuple(piece.T for piece in pieces) if turn else tuple(pieces)

    def write(arrays):
        return (concatenate([a.T for a in arrays] if turn else arrays, axis),)

    return Rule((theirs,), tuple(parts), read, write)


def fused_conv(theirs: str, parts: Mapping[str, int]) -> Rule:
    """The kernels (W, E) of several depthwise convolutions as one (E, 1, W)."""
    whole = fused("", parts)
    return Rule(
        (theirs,),
        tuple(parts),
        lambda arrays: whole.read((arrays[0][:, 0],)),
        lambda arrays: (whole.write(arrays)[0][:, None],),
    )


def by_head(theirs: str, parts: Mapping[str, int], heads: int) -> Rule:
    """Several matrices as one, head after head: of each head that many rows of every part."""
    ends = np.cumsum(list(parts.values()))[:-1].tolist()

    def read(arrays):
        rows = arrays[0].reshape(heads, -1, arrays[0].shape[-1])
        return tuple(piece.reshape(-1, piece.shape[-1]).T for piece in np.split(rows, ends, axis=1))

    def write(arrays):
        pieces = [a.T.reshape(heads, -1, a.shape[0]) for a in arrays]
        return (concatenate(pieces, 1).reshape(-1, arrays[0].shape[0]),)

    return Rule((theirs,), tuple(parts), read, write)


def stacked(theirs: Sequence[str], ours: str) -> Rule:
    """Matrices of one shape, transposed, as one array with a leading axis."""
    return Rule(
        tuple(theirs),
        (ours,),
        lambda arrays: (np.stack([a.T for a in arrays]),),
        lambda arrays: tuple(arrays[0][i].T for i in range(len(theirs))),
    )


def embedding_and_head(tied_head: bool, embedding: str, *aliases: str) -> list[Rule]:
    """Return the rule of the embedding, and that of the head if it is not the embedding's own table.

    `aliases` are other names of the embedding, each of which files may have.
    """
    head, table = "lm_head.weight", same(embedding, "embedding")
    # A table that two modules share may be saved by the name of either.
    for name in (*aliases, *((head,) if tied_head else ())):
        table = also(table, name)
    return [table] if tied_head else [table, matrix(head, "out_kernel")]


def ends(
    tied_head: bool, embedding: str, norm: str, scale: Callable[[str, str], Rule] = same, aliases: Sequence[str] = ()
) -> list[Rule]:
    """Return the rules of embedding, head and final norm."""
    return [*embedding_and_head(tied_head, embedding, *aliases), scale(norm, "backbone/norm/scale")]


GLU_NAMES = ("gate_proj", "up_proj", "down_proj")


def glu(theirs: str, ours: Sequence[str] = ("in_gate", "in_kernel", "out_kernel")) -> list[Rule]:
    """The three matrices of a block's gated linear unit."""
    names = zip(GLU_NAMES, ours, strict=True)
    return [matrix(f"{theirs}.{name}.weight", f"projection/{kernel}") for name, kernel in names]


def shared_expert(theirs: str) -> list[Rule]:
    """The three matrices of a mixture's shared expert."""
    return glu(theirs, ("in_shared_gate", "in_shared_kernel", "out_shared_kernel"))


def experts(theirs: str, count: int, names: Sequence[str] = GLU_NAMES) -> list[Rule]:
    """The matrices of a mixture's experts, each published by itself."""
    kernels = ("in_gates", "in_kernels", "out_kernels")
    return [
        stacked([f"{theirs}.{i}.{name}.weight" for i in range(count)], f"projection/{kernel}")
        for name, kernel in zip(names, kernels, strict=True)
    ]


def computed(ours: str, value: Callable[[], ArrayLike]) -> Rule:
    """A parameter that is in no checkpoint: the config says what it is."""
    return Rule((), (ours,), lambda _: (np.asarray(value()),), lambda _: ())


def concatenate(arrays: Sequence[ArrayLike], axis: int) -> ArrayLike:
    """np.concatenate, for abstract arrays too."""
    module = jnp if any(isinstance(a, jax.core.Tracer) for a in arrays) else np
    return module.concatenate(arrays, axis)


def _one(theirs, ours, read, write):
    return Rule((theirs,), (ours,), lambda arrays: (read(arrays[0]),), lambda arrays: (write(arrays[0]),))
