"""Provide the stack that all models share: blocks of mixer and projection, in a pattern repeated over depth.

    backbone:  the first blocks, the pattern's blocks repeated under one `nn.scan`, the rest, a norm

so that the size of the program and its compile time do not grow with depth.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks, sites
from recurrax.layers import LOSSES, UPDATES, Depth, LayerConfig
from recurrax.mixers import LRU, RGLRU, Attention, flash
from recurrax.models.block import Block, BlockConfig
from recurrax.models.norms import NORMS, Norm
from recurrax.projections import GLU, MLP
from recurrax.types import Dtype, Reset, State

DTYPES = ("float32", "bfloat16")
# everything_saveable is left out: remat=None does the same, and JAX's policy cannot save complex numbers.
# What a kernel of attention returns is stored under each: it is small, and costly to compute again.
REMAT_POLICIES = {
    name: jax.checkpoint_policies.save_from_both_policies(
        policy, jax.checkpoint_policies.save_only_these_names(flash.RESIDUALS)
    )
    for name, policy in {
        "nothing_saveable": jax.checkpoint_policies.nothing_saveable,
        "dots_saveable": jax.checkpoint_policies.dots_saveable,
        "dots_with_no_batch_dims_saveable": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }.items()
}
STACKS = ("first", "groups", "rest")
"""The modules that hold the blocks: before the scan over depth, under it, and after it."""


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Depth, width and block pattern of a stack of blocks."""

    dim: int = 256
    """Width of the residual stream, D."""
    num_layers: int = 6
    """Total number of blocks."""
    pattern: tuple[RGLRU | LRU | Attention | LayerConfig | BlockConfig, ...] = (RGLRU(),)
    """Mixers of consecutive blocks, repeated over depth: (RGLRU(), RGLRU(), Attention(window=256)) is Griffin. Use a
    BlockConfig for a block with a different projection, without one, or with a different order."""
    first: tuple[RGLRU | LRU | Attention | LayerConfig | BlockConfig, ...] = ()
    """Blocks before the pattern, with entries as in pattern."""
    last: tuple[RGLRU | LRU | Attention | LayerConfig | BlockConfig, ...] = ()
    """Blocks after the pattern. The pattern fills the rest of num_layers; its last repetition may be incomplete."""
    projection: GLU | MLP | LayerConfig | None = GLU()
    """Position-wise network of every block, or any other layer; None disables it."""
    norm: str = "rms"
    """Kind of norm: "rms" is RMSNorm, "simple_rms" RMSNorm without a scale, "layer" LayerNorm with scale and bias."""
    norm_eps: float = 1e-6
    """Epsilon added to the mean square or variance in the norms."""
    dtype: Dtype = "float32"
    """Dtype of activations, float32 or bfloat16: a name, or a dtype such as jnp.bfloat16, which is stored by name.
    Parameters are float32, states at least float32."""
    dropout: float = 0.0
    """Probability with which an entry of a layer's output is dropped in training, before the sum with the stream."""
    layer_drop: float = 0.0
    """Probability with which the last block is skipped for a sequence in training; it rises linearly from the first."""
    remat: str | None = None
    """Rematerialisation policy, a name in jax.checkpoint_policies: which intermediates the backward pass stores instead
    of recomputing them, beside the results of attention's kernel. None stores everything."""

    def __post_init__(self):
        checks.hashable(self)
        if self.dim < 1 or self.num_layers < 1:
            raise ValueError(f"dim and num_layers must be at least 1, got dim={self.dim}, num_layers={self.num_layers}")
        if not self.pattern:
            raise ValueError("pattern must have at least one mixer config, got ()")
        for name in ("pattern", "first", "last"):
            if not all(isinstance(entry, LayerConfig | BlockConfig) for entry in getattr(self, name)):
                raise ValueError(f"{name} must be a tuple of mixer or block configs, got {getattr(self, name)!r}")
        ends = len(self.first) + len(self.last)
        if self.num_layers < ends:
            raise ValueError(f"num_layers {self.num_layers} is less than the {ends} blocks of first and last")
        if not isinstance(self.projection, LayerConfig | None):
            raise ValueError(
                f"projection must be the config of a layer, such as GLU(), or None, got {self.projection!r}"
            )
        checks.choice("norm", self.norm, NORMS)
        checks.positive(self, "norm_eps")
        for name in ("dropout", "layer_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        # Stored by name, because configs are compared, hashed, printed and written to JSON.
        object.__setattr__(self, "dtype", checks.dtype_name(self.dtype, DTYPES))
        checks.choice("dtype", self.dtype, DTYPES)
        if self.remat is not None:
            checks.choice("remat", self.remat, REMAT_POLICIES)
        provided = False
        for i, block in enumerate(self.layout.blocks):
            for layer in block.layers.values():
                layer.layer(self.dim)  # raises if the layer cannot have this dim
                if layer.uses_value_residual and not provided:
                    raise ValueError(
                        f"{layer} uses a value residual, which none of the first blocks provides: start with one, "
                        "as in first=(RWKV7(),), pattern=(RWKV7(value_residual=True),)"
                    )
                provided = provided or (layer.provides_value_residual and i < len(self.first))

    def block(self, of: LayerConfig | BlockConfig) -> BlockConfig:
        """Return the block config for an entry of `pattern`, `first` or `last`."""
        return of if isinstance(of, BlockConfig) else BlockConfig(of, self.projection)

    @property
    def context(self) -> int | None:
        """The most tokens that one stream may have without losing some that a layer would use; None is no limit."""
        return min((layer.context for layer in self.layout.layers if layer.context is not None), default=None)

    def with_context(self, context: int) -> "BackboneConfig":
        """Return this config with the limit `context` in every layer whose context is limited."""
        parts = {
            name: tuple(entry.with_context(context) for entry in getattr(self, name))
            for name in ("first", "pattern", "last")
        }
        projection = self.projection and self.projection.with_context(context)
        return dataclasses.replace(self, **parts, projection=projection)

    @property
    def layout(self) -> "Layout":
        """The arrangement of the blocks in the program."""
        first, pattern, last = (tuple(map(self.block, part)) for part in (self.first, self.pattern, self.last))
        repeats, cut = divmod(self.num_layers - len(first) - len(last), len(pattern))
        return Layout(first, pattern, repeats, pattern[:cut] + last)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The blocks that run one by one and those that run under the scan."""

    first: tuple[BlockConfig, ...]
    pattern: tuple[BlockConfig, ...]
    repeats: int
    rest: tuple[BlockConfig, ...]
    """The incomplete last repetition of the pattern, followed by the blocks after it."""

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """All distinct positions in order, with the pattern once."""
        return self.first + (self.pattern if self.repeats else ()) + self.rest

    @property
    def layers(self) -> tuple[LayerConfig, ...]:
        """The layers of these blocks in order."""
        return tuple(layer for block in self.blocks for layer in block.layers.values())

    @property
    def shares(self) -> bool:
        """Whether a layer uses the value residual of a layer below."""
        return any(layer.uses_value_residual for layer in self.layers)


class Group(nn.Module):
    """Run consecutive blocks, with one state per block; `first` is the index of the first one in the model."""

    config: BackboneConfig
    blocks: tuple[BlockConfig, ...]

    @nn.compact
    def __call__(self, carry, states, reset, first):
        (x, shared), config, after = carry, self.config, []
        norm = Norm(config.norm, config.norm_eps, config.dtype)
        for i, block in enumerate(self.blocks):
            state = None if states is None else states[i]
            layer = Block(
                block,
                config.dim,
                norm,
                config.layout.shares,
                config.dropout,
                config.layer_drop,
                name=block_name(i, block),
            )
            x, shared, state = layer(x, shared, state, reset, Depth(first + i, config.num_layers))
            after.append(state)
        return (x, shared), tuple(after)


def block_name(i: int, block: BlockConfig) -> str:
    """Return the parameter-tree key of block i of a group, for example "0_rglru"."""
    return f"{i}_{type(block.mixer).__name__.lower()}"


class Backbone(nn.Module):
    """Run all blocks and the final norm.

    The state is {"first": one per block, "groups": leaves with a leading axis of groups, "rest": one per block}.
    """

    config: BackboneConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], state: State | None = None, *, reset: Reset | None = None
    ) -> tuple[Float[Array, "B T D"], State]:
        config, layout = self.config, self.config.layout
        if state is not None:
            if fixed := [layer for layer in layout.layers if not layer.streams]:
                raise ValueError(
                    f"{fixed[0]} cannot continue a sequence: call the model on whole ones, without a state"
                )
            want = jax.eval_shape(lambda: self.init_state(x.shape[0]))
            checks.same_structure("this model", state, want)
        states = state or dict.fromkeys(STACKS)
        group, single = Group, Group
        if config.remat is not None:
            policy = REMAT_POLICIES[config.remat]
            # Inside the scan, loops separate the forward pass from the recomputation; outside, XLA would merge the two.
            group = nn.remat(Group, policy=policy, prevent_cse=False)
            single = nn.remat(Group, policy=policy)
        carry, after = (x.astype(config.dtype), None), dict.fromkeys(STACKS, ())
        number = jnp.float32(0)
        if layout.first:
            carry, after["first"] = single(config, layout.first, name="first")(carry, states["first"], reset, number)
        if layout.repeats:
            scanned = nn.scan(
                group,
                variable_axes=dict.fromkeys(("params", sites.COLLECTION, LOSSES, UPDATES), 0),
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast, 0),
                length=layout.repeats,
            )
            numbers = len(layout.first) + len(layout.pattern) * jnp.arange(layout.repeats, dtype=jnp.float32)
            carry, after["groups"] = scanned(config, layout.pattern, name="groups")(
                carry, states["groups"], reset, numbers
            )
        if layout.rest:
            number = jnp.float32(config.num_layers - len(layout.rest))
            carry, after["rest"] = single(config, layout.rest, name="rest")(carry, states["rest"], reset, number)
        y = Norm(config.norm, config.norm_eps, config.dtype)("norm", carry[0])
        return sites.visit(self, "final_norm", y), after

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first token."""
        config, layout = self.config, self.config.layout

        def states(blocks):
            return tuple(block.init_state(batch_size, config.dim, config.dtype) for block in blocks)

        groups = states(layout.pattern) if layout.repeats else ()
        groups = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (layout.repeats, *leaf.shape)), groups)
        return {"first": states(layout.first), "groups": groups, "rest": states(layout.rest)}
