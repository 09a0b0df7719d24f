"""Build small training states, and compare them and the files of checkpoints."""

import pathlib

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding


class State(flax.struct.PyTreeNode):
    step: jax.Array
    params: dict
    opt_state: tuple
    key: jax.Array


def make_state(step: int) -> State:
    keys = jax.random.split(jax.random.key(step), 3)
    params = {
        "blocks": {"kernel": jax.random.normal(keys[0], (64, 32)), "scale": jnp.full((16,), 1 + step, jnp.bfloat16)},
        "embedding": jax.random.normal(keys[1], (8, 4)),
    }
    opt_state = optax.adamw(1e-3).init(params)
    opt_state = jax.tree.map(lambda leaf: leaf + jnp.asarray(step, leaf.dtype), opt_state)
    return State(jnp.asarray(step, jnp.int32), params, opt_state, keys[2])


def shard(state: State, mesh_shape=None, axes=(), kernel=()) -> State:
    """On one device, or replicated over a mesh except for the kernels, which are split."""
    if mesh_shape is None:
        return jax.device_put(state, SingleDeviceSharding(jax.devices()[0]))
    mesh = jax.make_mesh(mesh_shape, axes)

    def place(path, leaf):
        split = kernel if "kernel" in jax.tree_util.keystr(path) else ()
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*split)))

    return jax.tree_util.tree_map_with_path(place, state)


def abstract(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def bits(leaf) -> bytes:
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf).tobytes()


def assert_same(found, expected):
    """The same tree types, dtypes, shapes, shardings and bits."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (one.dtype, one.shape, one.sharding) == (other.dtype, other.shape, other.sharding)
        assert bits(one) == bits(other)


def files(directory) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in pathlib.Path(directory).rglob("*")
        if path.is_file()
    }
