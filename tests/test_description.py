"""The table of a model's parameters adds up, for arrays, plans and shards."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from recurrax.models import (
    describe,
)
from support.models import build


def test_description_adds_up_for_arrays_plans_and_shards():
    params = {
        "layer": {"kernel": jnp.zeros((16, 3)), "scale": jnp.zeros((), jnp.bfloat16)},
        "steps": jnp.zeros((2000,), jnp.int32),
    }
    text = describe(params)
    header, rule, *rows, last_rule, totals = text.splitlines()
    assert header.split() == ["path", "shape", "dtype", "sharding", "bytes"]
    assert set(rule) == set(last_rule) == {"-"}
    assert [row.split() for row in rows] == [
        ["layer/kernel", "16x3", "float32", "192"],
        ["layer/scale", "scalar", "bfloat16", "2"],
        ["steps", "2000", "int32", "8,000"],
    ]
    assert len({len(row) for row in rows}) == 1  # bytes are aligned to the right
    assert totals == "2,049 parameters, 8,194 bytes, 8,194 bytes on each device"
    assert describe(jax.eval_shape(lambda: params)) == text

    mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None))
    params["layer"]["kernel"] = jax.device_put(params["layer"]["kernel"], sharding)
    text = describe(params)
    assert "(('data', 'fsdp'), None)" in text
    assert text.endswith("2,049 parameters, 8,194 bytes, 8,026 bytes on each device")
    plan = {
        **params,
        "layer": {**params["layer"], "kernel": jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=sharding)},
    }
    assert describe(plan) == text
    assert describe({"key": jax.random.key(0)}).endswith("1 parameters, 8 bytes, 8 bytes on each device")


def test_description_of_a_model_counts_every_parameter():
    _, params, _ = build("untied")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    text = describe(params)
    assert text.endswith(f"{count:,} parameters, {4 * count:,} bytes, {4 * count:,} bytes on each device")
    assert "params/backbone/groups/1_lru/mixer/nu_log" in text
    assert len(text.splitlines()) == len(jax.tree.leaves(params)) + 4
