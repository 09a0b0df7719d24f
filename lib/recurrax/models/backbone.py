"""The stack that every model shares: blocks of mixer and projection, in a pattern repeated over depth.

    block:     x = x + mixer(norm(x));  x = x + projection(norm(x))
    backbone:  the pattern's blocks, repeated num_layers / len(pattern) times under one `nn.scan`, the rest after it

so the program, and the time to compile it, do not grow with depth.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.mixers import LRU, RGLRU, Attention, MixerConfig
from recurrax.projections import GLU, MLP, ProjectionConfig
from recurrax.types import Reset, Scalar, State

DTYPES = ("float32", "bfloat16")
# everything_saveable is None, and JAX cannot keep complex numbers in it.
REMAT_POLICIES = (
    "nothing_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
)


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Depth, width and pattern of a stack of blocks."""

    dim: int = 256
    """D, the width of the residual stream."""
    num_layers: int = 6
    """Blocks in all."""
    pattern: tuple[RGLRU | LRU | Attention | MixerConfig, ...] = (RGLRU(),)
    """Mixers of consecutive blocks, repeated over depth: (RGLRU(), RGLRU(), Attention(window=256)) is Griffin."""
    projection: GLU | MLP | ProjectionConfig | MixerConfig = GLU()
    """The position-wise network of every block, or a layer with a state such as RWKV's channel mix."""
    dtype: str = "float32"
    """What activations are computed in: float32 or bfloat16. Parameters are float32, states at least float32."""
    remat: str | None = None
    """What the backward pass keeps instead of recomputing it: a jax.checkpoint_policies name, or None: everything."""

    def __post_init__(self):
        if self.dim < 1 or self.num_layers < 1:
            raise ValueError(f"dim and num_layers must be at least 1, got dim={self.dim}, num_layers={self.num_layers}")
        if not self.pattern or not all(isinstance(mixer, MixerConfig) for mixer in self.pattern):
            raise ValueError(f"pattern must be a non-empty tuple of mixer configs, got {self.pattern!r}")
        if not isinstance(self.projection, ProjectionConfig | MixerConfig):
            raise ValueError(f"projection must be a projection config, got {self.projection!r}")
        checks.choice("dtype", self.dtype, DTYPES)
        if self.remat is not None:
            checks.choice("remat", self.remat, REMAT_POLICIES)
        for mixer in self.pattern:
            mixer.layer(self.dim)  # raises where the mixer cannot have this dim


class Block(nn.Module):
    """x + mixer(norm(x)), then x + projection(norm(x)).

    The state is {"mixer": the mixer's}, and "projection" where that is a layer with a state of its own.
    """

    config: BackboneConfig
    mixer: MixerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], state: State | None, reset: Reset | None, depth: Scalar = 0.0
    ) -> tuple[Float[Array, "B T D"], State]:
        dtype = jnp.dtype(self.config.dtype)
        state = state or {"mixer": None, "projection": None}
        mixer = self.mixer.layer(self.config.dim, dtype, name="mixer")
        normed = nn.RMSNorm(dtype=dtype, name="mixer_norm")(x)
        mixed, mixer_state = mixer(normed, state["mixer"], reset=reset, depth=depth)
        x = x + mixed
        normed = nn.RMSNorm(dtype=dtype, name="projection_norm")(x)
        if not isinstance(self.config.projection, MixerConfig):
            projection = self.config.projection.layer(self.config.dim, name="projection")
            return x + projection(normed), {"mixer": mixer_state}
        projection = self.config.projection.layer(self.config.dim, dtype, name="projection")
        projected, projection_state = projection(normed, state["projection"], reset=reset, depth=depth)
        return x + projected, {"mixer": mixer_state, "projection": projection_state}


class Group(nn.Module):
    """One block after the other for the given mixers; `first` is the number of the first. States: one per block."""

    config: BackboneConfig
    mixers: tuple[MixerConfig, ...]

    @nn.compact
    def __call__(self, x, states, reset, first):
        after = []
        for i, mixer in enumerate(self.mixers):
            state = None if states is None else states[i]
            block = Block(self.config, mixer, name=f"{i}_{type(mixer).__name__.lower()}")
            x, state = block(x, state, reset, (first + i) / self.config.num_layers)
            after.append(state)
        return x, tuple(after)


class Backbone(nn.Module):
    """All blocks and the final norm. The state is {"groups": leaves with a leading axis of groups, "rest": ...}."""

    config: BackboneConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], state: State | None = None, *, reset: Reset | None = None
    ) -> tuple[Float[Array, "B T D"], State]:
        config, (repeats, rest) = self.config, self._layout
        if state is not None:
            want = jax.eval_shape(lambda: self.init_state(x.shape[0]))
            checks.same_structure("this model", state, want)
        x = x.astype(config.dtype)
        group, rest_group = Group, Group
        if config.remat is not None:
            policy = getattr(jax.checkpoint_policies, config.remat)
            # Inside of the scan the loops keep forward and recomputation apart; outside XLA would merge the two again.
            group = nn.remat(Group, policy=policy, prevent_cse=False)
            rest_group = nn.remat(Group, policy=policy)
        after = {"groups": (), "rest": ()}
        if repeats:
            scanned = nn.scan(
                group,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast, 0),
                length=repeats,
            )
            states = None if state is None else state["groups"]
            first = len(config.pattern) * jnp.arange(repeats, dtype=jnp.float32)
            x, after["groups"] = scanned(config, config.pattern, name="groups")(x, states, reset, first)
        if rest:
            states = None if state is None else state["rest"]
            first = jnp.float32(repeats * len(config.pattern))
            x, after["rest"] = rest_group(config, rest, name="rest")(x, states, reset, first)
        return nn.RMSNorm(dtype=jnp.dtype(config.dtype), name="norm")(x), after

    @property
    def _layout(self):
        """How often the whole pattern repeats, and the mixers of the last, incomplete repetition."""
        repeats, rest = divmod(self.config.num_layers, len(self.config.pattern))
        return repeats, self.config.pattern[:rest]

    def init_state(self, batch_size: int) -> State:
        """The state before the first token."""
        config, (repeats, rest) = self.config, self._layout

        def state(mixer):
            state = {"mixer": mixer.init_state(batch_size, config.dim, config.dtype)}
            if isinstance(config.projection, MixerConfig):
                state["projection"] = config.projection.init_state(batch_size, config.dim, config.dtype)
            return state

        def states(mixers):
            return tuple(state(mixer) for mixer in mixers)

        groups = states(config.pattern) if repeats else ()
        groups = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (repeats, *leaf.shape)), groups)
        return {"groups": groups, "rest": states(rest)}
