"""What layers and parameters declare: a wrong or missing declaration is refused with the choices."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from recurrax.layers import Depth, LayerConfig
from recurrax.mixers import GLA, RGLRU
from recurrax.mixers.base import fan_in
from recurrax.models import LanguageModelConfig
from recurrax.parameters import Parameter, recording
from train.config import from_json, to_json


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


def test_recording_finds_declared_parameters_by_path():
    layer = GLA(num_heads=2).layer(8)
    with recording() as found:
        shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 2, 8)), depth=Depth(1, 2))["params"]
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
