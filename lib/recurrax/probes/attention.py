"""The matrix that a layer applies to its values (Zimerman, Ali and Wolf, 2024, arXiv 2405.16504).

    mixed_{t,e} = sum_s M_{e,t,s} values_{s,e} + offset_{t,e}           y = W_out mixed

Every layer of the library is of this form, recurrences as well as attention, once what depends on the data but is no
value is taken as given: decays, keys, queries, gates, the divisor of a norm, sigmoid(x) in x sigmoid(x). M is the
layer's attention: all of it, from the value projection through convolution, recurrence, norm and gate up to the output
projection. It is found exactly, column by column, by the layer's own program (`frozen`).
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Inexact, Int

from recurrax.layers import Depth
from recurrax.mixers import MixerConfig
from recurrax.probes import layers
from recurrax.probes.frozen import FrozenRun
from recurrax.types import ArrayLike, PyTree, Reset


@dataclasses.dataclass(frozen=True, eq=False)
class LayerAttention:
    """What one layer mixes into what.

    `values` are the layer's values before convolution and activation, with their bias where they have one: W_v x. They
    are the layer's input itself in S4D, S4 and LSSL, what is remembered in LMU, and complex, B x, in LRU and S5 and,
    after their activation, in HGRN; `mixed` are the states there, C and all that follows the read-out. In S4D, S4 and
    LSSL `mixed` is GELU(y). Channels that share a value (grouped heads, the N states of a channel) each have a copy of
    it. DeltaProduct has R values per token, S = R T; otherwise S = T.
    """

    name: str
    """The number of the block from below, and which mixer it is: "3_gla"."""
    config: MixerConfig
    num_heads: int
    """H: the E channels are H heads one after the other; 1 where there are none."""
    matrix: Inexact[np.ndarray, "B E T S"]
    """M."""
    values: Inexact[np.ndarray, "B S E"]
    offset: Inexact[np.ndarray, "B T E"]
    """What comes of no value: biases, and the mean over a head that a LayerNorm subtracts (mLSTM, RWKV-7)."""
    mixed: Inexact[np.ndarray, "B T E"]
    """What the layer computed, to compare with."""

    @property
    def heads(self) -> Float[np.ndarray, "B H T S"]:
        """The mean of |M| over the channels of each head."""
        batch, channels, *steps = self.matrix.shape
        return np.abs(self.matrix).reshape(batch, self.num_heads, channels // self.num_heads, *steps).mean(2)

    @property
    def distance(self) -> Int[np.ndarray, "T S"]:
        """t - s, in tokens."""
        length, columns = self.matrix.shape[2:]
        return np.arange(length)[:, None] - np.arange(columns)[None] // (columns // length)


def implicit_attention(
    model: nn.Module,
    params: PyTree,
    tokens: ArrayLike,
    *,
    reset: Reset | None = None,
    chunk_size: int = 64,
) -> list[LayerAttention]:
    """Each mixer's matrix M on these sequences, from below.

    A layer's matrices are B E T S numbers on the host, and twice that on the device while they are made; `chunk_size`
    columns are computed at once, each with activations as large as the layer's own. All is in the parameters' dtype,
    float32 at least: in a bfloat16 model M is what its gates and keys mean, not how they were rounded. Float64
    parameters, with `jax.enable_x64(True)`, give a float64 matrix.

    Args:
      model: a LanguageModel, Classifier or Regressor.
      params: as `model.init` makes them.
      tokens: (B, T), or vectors (B, T, F) where the model reads those; T >= 2.
      reset: True where a document starts.
      chunk_size: columns at once.

    Raises:
      ValueError: another model, parameters that are not its, inputs that it does not read, chunk_size below 1, a layer
        that is not linear in its values: M times values, with the offset, is not what it mixes.
    """
    return [layer_attention(layer, reset, chunk_size)[0] for layer in layers.given(model, params, tokens, reset=reset)]


def layer_attention(
    layer: layers.Given, reset: Reset | None = None, chunk_size: int = 64
) -> tuple[LayerAttention, dict[str, list[np.ndarray]], PyTree]:
    """The attention of one layer, with the arrays that its formula marks, and the state after the last token."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    wide = functools.partial(jnp.promote_types, functools.reduce(jnp.promote_types, _dtypes(layer.params)))
    x, shared = (None if z is None else z.astype(wide(z.dtype)) for z in (layer.x, layer.shared))
    marks, state, columns = jax.device_get(_run(layer.config, chunk_size, layer.params, x, shared, reset))
    values, mixed = _values(marks), _flat(*marks["mixed"])
    steps = _steps(values, mixed)
    num_heads = getattr(layer.config, "value_heads", getattr(layer.config, "num_heads", 1))
    offset, columns = columns[0], columns[1:] - columns[:1]
    attention = LayerAttention(
        layer.name,
        layer.config,
        num_heads,
        matrix=np.ascontiguousarray(columns.transpose(1, 3, 2, 0)),
        values=_by_channel(values.reshape(len(values), values.shape[1] * steps, -1), mixed.shape[-1], layer.config),
        offset=offset,
        mixed=mixed,
    )
    _check(attention)
    return attention, marks, state


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(config, chunk_size, params, x, shared, reset):
    """Marked arrays, the last state, and what is mixed of zeros and of 1 at each step: (1 + S, B, T, E)."""

    def mixer(params, x, shared, reset):
        return config.layer(x.shape[-1], x.dtype).run(params, x, None, reset=reset, depth=Depth(), shared=shared)

    arguments = (params, x, shared, reset)
    program, shapes = jax.make_jaxpr(mixer, return_shape=True)(*arguments)
    leaves = jax.tree.leaves(arguments)

    def record():
        run = FrozenRun(str(config))
        results = run(program, *leaves)
        return run.marks, jax.tree.unflatten(jax.tree.structure(shapes), results)[1]

    marks, state = record()
    if "mixed" not in marks or not any(name.startswith("values") for name in marks):
        raise ValueError(f"{config} does not mark its values and what it mixes, as recurrax.mixers.marks says")
    length, steps = x.shape[1], _steps(_values(marks), _flat(*marks["mixed"]))

    def column(at):
        def put(name, true):
            # Complex values get a real 1.
            there = jnp.zeros_like(at) if name == "values_imag" else at
            there = there.reshape(1, length, steps, 1).astype(true.dtype)
            return jnp.broadcast_to(there, (len(true), length, steps, true[0, 0].size // steps)).reshape(true.shape)

        run = FrozenRun(str(config), put)
        run(program, *leaves)
        return _flat(run.mixed.second)

    at = jnp.eye(1 + length * steps, length * steps, -1, x.dtype)
    if len(at) <= chunk_size:
        return marks, state, jax.vmap(column)(at)
    return marks, state, jax.lax.map(column, at, batch_size=chunk_size)


def _dtypes(params):
    return [leaf.dtype for leaf in jax.tree.leaves(params)]


def _values(marks):
    """(B, T, E), of one mark or two."""
    if "values" in marks:
        return _flat(*marks["values"])
    (real,), (imag,) = marks["values_real"], marks["values_imag"]
    return _flat(real + 1j * imag)


def _flat(x):
    return x.reshape(*x.shape[:2], -1)


def _steps(values, mixed):
    """R: values of a token for each channel."""
    return max(1, values.shape[-1] // mixed.shape[-1])


def _by_channel(values, channels, config):
    """(B, S, E): to each channel its own value."""
    share = channels // values.shape[-1]
    # Channels that share a value are neighbours, or belong to neighbouring heads.
    size = channels // config.num_heads if hasattr(config, "num_heads") else 1
    channel = np.arange(channels)
    return values[..., channel // (size * share) * size + channel % size]


def _check(attention):
    """Raises ValueError unless the matrix is the layer."""
    made = np.einsum("bets,bse->bte", attention.matrix, attention.values) + attention.offset
    size = np.abs(attention.mixed).max()
    off = np.abs(made - attention.mixed).max() / size if size else np.abs(made).max()
    if not off <= np.sqrt(np.finfo(attention.mixed.dtype).eps):
        raise ValueError(
            f"{attention.name} {attention.config} is not linear in its values, but off by {off:.1e} of what it mixes: "
            "a coefficient that depends on the values may not be marked, or channels may be mixed"
        )
