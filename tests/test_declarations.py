"""What layers and parameters declare: a wrong or missing declaration is refused with the choices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from recurrax.layers import Depth, LayerConfig
from recurrax.mixers import GLA, RGLRU, Attention, Bidirectional
from recurrax.mixers.base import fan_in
from recurrax.models import BlockConfig, ClassifierConfig, LanguageModelConfig
from recurrax.parameters import Parameter, recording
from train.config import TrainConfig
from train.config_json import from_json, to_json
from train.sharding import MeshConfig


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3, 4), ("embed",)), r"axes \('embed',\) must be one for each dimension of the shape \(3, 4\)"),
        (((3,), ("embd",)), r"unknown axis 'embd' \(did you mean 'embed'\?\); choose one of embed, heads"),
        (((3,), (None,), "matrices"), r"unknown role 'matrices' \(did you mean 'matrix'\?\); choose one of matrix, "),
    ],
)
def test_parameter_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        Parameter(fan_in, *arguments)


def test_parameter_decays_matrices_and_heads():
    """Weight decay follows the role unless the parameter says otherwise."""
    roles = {role: Parameter(fan_in, (2,), (None,), role).is_decayed for role in ("matrix", "head", "vector")}
    assert roles == {"matrix": True, "head": True, "vector": False}
    assert not Parameter(fan_in, (2,), (None,), decayed=False).is_decayed


def test_layer_config_declares_its_capabilities():
    """A config that defines a layer and no capabilities is refused where it is written."""
    with pytest.raises(ValueError, match="Undeclared must declare its capabilities, causal, streams, linear_in_values"):

        @dataclasses.dataclass(frozen=True)
        class Undeclared(LayerConfig):
            def layer(self, dim, dtype=jnp.float32, name=None):
                raise NotImplementedError

    assert (RGLRU().causal, RGLRU().streams, RGLRU().linear_in_values, RGLRU().splits_time) == 4 * (True,)


@dataclasses.dataclass(frozen=True)
class InOrder(RGLRU):
    """A mixer that must see the whole sequence on one device."""

    capabilities = RGLRU.capabilities._replace(splits_time=False)


def test_mesh_respects_splits_time():
    """Refused when the run is configured, and by the layer itself when it is traced."""
    message = r"a mesh cannot split the sequences of InOrder\(.*whose config declares splits_time=False"
    with pytest.raises(ValueError, match=message):
        TrainConfig(model=LanguageModelConfig(vocab_size=288, pattern=(InOrder(),)), mesh=MeshConfig(time=2))
    layer, mesh = InOrder().layer(8), jax.sharding.AbstractMesh((2,), ("time",))
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 4, 8)))


def test_context_is_the_smallest_cache_without_a_window():
    pattern = (RGLRU(), BlockConfig(Attention(max_length=64)), Attention(window=8), Bidirectional(Attention()))
    config = ClassifierConfig(num_classes=2, num_layers=4, pattern=pattern)
    assert [block.mixer.context for block in config.layout.blocks] == [None, 64, None, 2048]
    assert (config.context, config.with_context(96).context) == (64, 96)
    assert ClassifierConfig(num_classes=2).context is None
    assert Attention(window=8).with_context(96) == Attention(window=8)


def test_recording_finds_declared_parameters_by_path():
    layer = GLA(num_heads=2).layer(8)
    init = functools.partial(layer.init, depth=Depth(1, 2))
    with recording() as found:
        shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 2, 8)))["params"]
    assert {name: parameter.shape for name, parameter in found.items()} == {n: v.shape for n, v in shapes.items()}
    with recording() as others:
        pass
    assert others == {}


def test_config_is_stored_by_its_public_name():
    """Files may move within a package: a config stored by the name of its file still loads."""
    config = LanguageModelConfig(pattern=(GLA(),))
    data = to_json(config)
    assert data["pattern"][0]["type"] == "recurrax.mixers.GLA"
    assert from_json(data) == config
    data["pattern"][0]["type"] = "recurrax.mixers.gla.GLA"
    assert from_json(data) == config
