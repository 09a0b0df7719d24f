"""Compute the matrix that a layer applies to its values (Zimerman, Ali and Wolf, 2024, arXiv 2405.16504).

    mixed_{t,e} = sum_s M_{e,t,s} values_{s,e} + offset_{t,e}           y = W_out mixed

Recurrences and attention are of this form if everything that depends on the data but is not a value is held constant:
decays, keys, queries, gates, the divisor of a norm, sigmoid(x) in x sigmoid(x). M is the layer's implicit attention,
from the value projection through convolution, recurrence, norm and gate up to the output projection. It is computed
column by column by the layer's own program, linearised in its values (`recurrax.probes.frozen`).
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Float, Inexact, Int

from recurrax import sites
from recurrax.layers import Depth
from recurrax.mixers import MixerConfig
from recurrax.probes import layers
from recurrax.probes.frozen import FrozenRun, NotLinear
from recurrax.types import ArrayLike, PyTree, Reset


@dataclasses.dataclass(frozen=True, eq=False)
class LayerAttention:
    """The matrix that one layer applies to its values, with what it is applied to.

    `values` are the layer's values before convolution and activation, with their bias if they have one: W_v x. They
    are the layer's input itself in S4D, S4 and LSSL, the memory's input in LMU, complex, B x, in LRU and S5, and, after
    their activation, in HGRN; in these layers `mixed` are the states, but GELU(y) in S4D, S4 and LSSL. Channels that
    share a value (grouped heads, the N states of a channel) each have a copy of it. DeltaProduct has R values per
    token, S = R T; otherwise S = T.

    The four arrays are None if the layer is not linear in its values; `reason` says why.
    """

    name: str
    """The number of the block from the bottom, and type of the mixer: "3_gla"."""
    config: MixerConfig
    num_heads: int
    """H: the E channels are H heads one after the other; 1 for a layer without heads."""
    matrix: Inexact[np.ndarray, "B E T S"] | None = None
    """M."""
    values: Inexact[np.ndarray, "B S E"] | None = None
    offset: Inexact[np.ndarray, "B T E"] | None = None
    """The part that depends on no value: biases, and the mean over a head that a LayerNorm subtracts (mLSTM, RWKV-7).
    """
    mixed: Inexact[np.ndarray, "B T E"] | None = None
    """The mixed values that the layer itself computed, for comparison."""
    reason: str | None = None
    """Why the layer has no matrix; None if it has one."""

    @property
    def heads(self) -> Float[np.ndarray, "B H T S"]:
        """The mean of |M| over the channels of each head.

        Raises:
          ValueError: the layer has no matrix.
        """
        batch, channels, *steps = self._matrix().shape
        return np.abs(self.matrix).reshape(batch, self.num_heads, channels // self.num_heads, *steps).mean(2)

    @property
    def distance(self) -> Int[np.ndarray, "T S"]:
        """t - s, in tokens.

        Raises:
          ValueError: the layer has no matrix.
        """
        length, columns = self._matrix().shape[2:]
        return np.arange(length)[:, None] - np.arange(columns)[None] // (columns // length)

    def _matrix(self):
        if self.matrix is None:
            raise ValueError(f"{self.name} has no implicit attention: {self.reason}")
        return self.matrix


def implicit_attention(
    model: nn.Module,
    params: PyTree,
    tokens: ArrayLike,
    *,
    reset: Reset | None = None,
    chunk_size: int = 64,
) -> list[LayerAttention]:
    """Return the matrix M of every mixer on these sequences, from the bottom.

    A layer that is not linear in its values has an entry without a matrix, which says why not: its config declares it,
    its formula does not mark its values, or M times the values, with the offset, is not what it mixes.

    A layer's matrices are B E T S numbers on the host, and twice that on the device while they are computed;
    `chunk_size` columns are computed at once, each with activations as large as the layer's own. All is in the
    parameters' dtype, at least float32: in a bfloat16 model M is computed without rounding gates and keys. Float64
    parameters, with `jax.enable_x64(True)`, give a float64 matrix.

    Args:
      model: a LanguageModel, Classifier or Regressor.
      params: the parameters, as `model.init` makes them.
      tokens: (B, T), or vectors (B, T, F) where the model reads those; T >= 2.
      reset: True where a document starts.
      chunk_size: number of columns that are computed at once.

    Raises:
      ValueError: another model, parameters of another model, inputs that it does not read, chunk_size below 1.
    """
    return [layer_attention(layer, reset, chunk_size)[0] for layer in layers.given(model, params, tokens, reset=reset)]


def layer_attention(
    layer: layers.Given, reset: Reset | None = None, chunk_size: int = 64
) -> tuple[LayerAttention, dict[str, list[np.ndarray]]]:
    """Return the attention of one layer, and the arrays that its formula marks, by name."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    wide = functools.partial(jnp.promote_types, functools.reduce(jnp.promote_types, _dtypes(layer.params)))
    x, shared = (None if z is None else z.astype(wide(z.dtype)) for z in (layer.x, layer.shared))
    where = layer.depth.count, np.float32(layer.depth.index)
    arguments, reason = (*where, layer.params, x, shared, reset), "its config declares linear_in_values=False"
    if layer.config.linear_in_values:
        try:
            marks, columns = jax.device_get(_run(layer.config, chunk_size, *arguments))
            return _attention(layer, marks, columns), marks
        except NotLinear as error:
            reason = str(error)
    marks, _ = jax.device_get(_run(layer.config, None, *arguments))
    return LayerAttention(layer.name, layer.config, layer.config.value_heads, reason=reason), marks


def _attention(layer, marks, columns):
    """Return the LayerAttention of the outputs for values of 0 and of 1 at each step. Raises NotLinear."""
    values, mixed, num_heads = _values(marks), _flat(*marks["mixed"]), layer.config.value_heads
    steps = _steps(values, mixed)
    offset, columns = columns[0], columns[1:] - columns[:1]
    attention = LayerAttention(
        layer.name,
        layer.config,
        num_heads,
        matrix=np.ascontiguousarray(columns.transpose(1, 3, 2, 0)),
        values=_by_channel(values.reshape(len(values), values.shape[1] * steps, -1), mixed.shape[-1], num_heads),
        offset=offset,
        mixed=mixed,
    )
    _check(attention)
    return attention


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(config, chunk_size, num_layers, index, params, x, shared, reset):
    """Return the marked arrays, and `mixed` for values of 0 and of 1 at each step: (1 + S, B, T, E).

    chunk_size None leaves out the second.
    """

    def mixer(index, params, x, shared, reset):
        with sites.marks() as marks:
            layer = config.layer(x.shape[-1], x.dtype)
            layer.apply({"params": params}, x, None, reset=reset, depth=Depth(index, num_layers), shared=shared)
        return marks

    arguments = (index, params, x, shared, reset)
    program, shapes = jax.make_jaxpr(mixer, return_shape=True)(*arguments)
    leaves = jax.tree.leaves(arguments)
    marks = jax.tree.unflatten(jax.tree.structure(shapes), jaxpr_as_fun(program)(*leaves))
    if chunk_size is None:
        return marks, None
    once = {name for name, arrays in marks.items() if len(arrays) == 1}
    if "mixed" not in once or not ("values" in once or {"values_real", "values_imag"} <= once):
        raise NotLinear(f"{config} does not mark its values and the mixed values once, as in recurrax.mixers.marks")
    length, steps = x.shape[1], _steps(_values(marks), _flat(*marks["mixed"]))

    def column(at):
        def substitute(name, true):
            # Complex values get a real 1.
            there = jnp.zeros_like(at) if name == "values_imag" else at
            there = there.reshape(1, length, steps, 1).astype(true.dtype)
            return jnp.broadcast_to(there, (len(true), length, steps, true[0, 0].size // steps)).reshape(true.shape)

        run = FrozenRun(str(config), substitute)
        run(program, *leaves)
        return _flat(run.mixed)

    at = jnp.eye(1 + length * steps, length * steps, -1, x.dtype)
    if len(at) <= chunk_size:
        return marks, jax.vmap(column)(at)
    return marks, jax.lax.map(column, at, batch_size=chunk_size)


def _dtypes(params):
    return [leaf.dtype for leaf in jax.tree.leaves(params)]


def _values(marks):
    """Return the values (B, T, E), from one mark or from two."""
    if "values" in marks:
        return _flat(*marks["values"])
    (real,), (imag,) = marks["values_real"], marks["values_imag"]
    return _flat(real + 1j * imag)


def _flat(x):
    return x.reshape(*x.shape[:2], -1)


def _steps(values, mixed):
    """Return R, the number of values per token and channel."""
    return max(1, values.shape[-1] // mixed.shape[-1])


def _by_channel(values, channels, num_heads):
    """Return (B, S, E), with the value of each channel."""
    share = channels // values.shape[-1]
    # Channels that share a value are neighbours, or belong to neighbouring heads.
    size = channels // num_heads if num_heads > 1 else 1
    channel = np.arange(channels)
    return values[..., channel // (size * share) * size + channel % size]


def _check(attention):
    """Raise NotLinear unless the matrix, applied to the values, gives what the layer computed."""
    made = np.einsum("bets,bse->bte", attention.matrix, attention.values) + attention.offset
    size = np.abs(attention.mixed).max()
    off = np.abs(made - attention.mixed).max() / size if size else np.abs(made).max()
    if not off <= np.sqrt(np.finfo(attention.mixed.dtype).eps):
        raise NotLinear(
            f"{attention.name} {attention.config} is not linear in its values: the matrix misses the mixed values by "
            f"{off:.1e} of their size; a coefficient that depends on the values may lack its mark, or channels mix"
        )
