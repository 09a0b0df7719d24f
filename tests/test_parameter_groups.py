"""What training makes of declarations: shards, weight decay and learning rates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrax.layers import Depth
from recurrax.mixers import RWKV7
from recurrax.models import ClassifierConfig, LanguageModelConfig, describe, parameters
from recurrax.parameters import AXES, ROLES, Parameter
from train import presets, sharding
from train.optimizers import AdamW, Constant

MESH = sharding.MeshConfig(data=2, fsdp=2, tensor=2)


def test_every_logical_axis_says_what_splits_it():
    assert sharding.SPLITS.keys() == {*AXES, None}


def test_readouts_are_split_like_other_matrices():
    """The head of classes is replicated along the classes where their number does not fit."""
    mesh = sharding.make_mesh(MESH)
    for num_classes, split in ((4, "tensor"), (3, None)):
        config = ClassifierConfig(dim=8, num_layers=1, projection=None, num_classes=num_classes)
        specs = sharding.shardings(parameters(config, input_dim=5), mesh)
        assert specs["out_head/kernel"].spec == jax.P("fsdp", split)
        assert specs["in_embedding/kernel"].spec == jax.P(None, "fsdp")
        assert specs["out_head/bias"].spec == jax.P()


def test_indivisible_dimension_of_a_large_matrix_is_refused():
    declared = {"in_q": Parameter(None, (6, 5), ("embed", "heads"))}
    with pytest.raises(ValueError, match=r"params/in_q has shape \(6, 5\): 5 is not divisible by mesh.tensor = 2"):
        sharding.shardings(declared, sharding.make_mesh(MESH))


def test_axis_of_the_mesh_splits_one_dimension_only():
    mesh = sharding.make_mesh(MESH)
    declared = {
        "both": Parameter(None, (4, 8), ("latent", "inner")),
        "second": Parameter(None, (4, 8), (None, "inner")),
        "neither": Parameter(None, (4, 6), (None, "inner")),
    }
    specs = {name: found.spec for name, found in sharding.shardings(declared, mesh).items()}
    assert specs == {"both": jax.P("fsdp", "tensor"), "second": jax.P(None, ("tensor", "fsdp")), "neither": jax.P()}


def updates_of(config, declared, gradients, params):
    optimizer = config.build(declared)
    return optimizer.update(gradients, optimizer.init(params), params)[0]


def test_rate_of_rwkv7_learns_twice_as_fast():
    model = LanguageModelConfig(dim=8, num_layers=1, pattern=(RWKV7(num_heads=2),), projection=None)
    declared = parameters(model)
    params = {path: jnp.zeros(p.shape) for path, p in declared.items()}
    gradients = jax.tree.map(lambda leaf: leaf + 1e-3, params)
    config = AdamW(learning_rate=1e-2, schedule=Constant(warmup_steps=0), weight_decay=0.0)
    for path, update in updates_of(config, declared, gradients, params).items():
        factor = 2 if path.endswith("mixer/decay_bias") else 1
        np.testing.assert_allclose(update, -factor * 1e-2, rtol=1e-3, err_msg=path)


def test_state_of_adamw_has_its_former_structure():
    """Checkpoints record the structure, empty nodes too: it is that of optax's AdamW behind clipping."""
    declared = parameters(presets.tiny().model)
    params = {path: jnp.zeros(()) for path in declared}
    former = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            optax.constant_schedule(1e-3), mask=lambda params: {path: declared[path].is_decayed for path in params}
        ),
    )
    assert jax.tree.structure(AdamW().build(declared).init(params)) == jax.tree.structure(former.init(params))


def test_weight_decay_needs_declarations():
    with pytest.raises(ValueError, match=r"weight_decay 0.1 and groups .* for parameters that no table declares"):
        AdamW(weight_decay=0.1).build(None)


@pytest.mark.parametrize(("index", "count"), [(0, 1), (0, 4), (3, 4)])
def test_norm_of_rwkv7_starts_as_published(index, count):
    layer = RWKV7(num_heads=2).layer(8)
    params = layer.init(jax.random.key(0), jnp.zeros((1, 1, 8)), depth=Depth(index, count))["params"]
    np.testing.assert_allclose(params["norm_scale"], ((1 + index) / count) ** 0.7, rtol=1e-6)


def test_table_of_parameters_has_axes_and_roles():
    declared = parameters(presets.tiny().model)
    shapes = {path: jax.ShapeDtypeStruct(p.shape, jnp.float32) for path, p in declared.items()}
    lines = describe(shapes, declared=declared).splitlines()
    shown = {line.split()[0]: line for line in lines[2:-2]}
    assert shown.keys() == declared.keys()
    assert "(vocab, embed)" in shown["embedding"]
    for path, parameter in declared.items():
        assert parameter.role in shown[path].split()
    assert {word for line in shown.values() for word in line.split()} & set(ROLES) >= {"matrix", "vector"}
