"""Declarations of parameters: what they refuse, and the tree of a whole model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from recurrax.mixers import GLA, LRU, RWKV7, S5, Attention
from recurrax.models import ClassifierConfig, LanguageModel, LanguageModelConfig, RegressorConfig, parameters
from recurrax.parameters import AXES, ROLES, Parameter, declare
from recurrax.projections import MLP, MixtureOfExperts

ONES = nn.initializers.ones


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Parameter(ONES, (2, 3), ("embed",)), r"axes \('embed',\) must be one for each .* shape \(2, 3\)"),
        (lambda: Parameter(ONES, (2,), ("head",)), "unknown axis 'head'.*did you mean 'heads'.*choose one of embed"),
        (lambda: Parameter(ONES, (2,), ("embed",), "bias"), "unknown role 'bias'.*choose one of matrix, embedding"),
        (lambda: Parameter(ONES, (2,), ("embed",), learning_rate=0.0), "learning_rate must be positive, got 0.0"),
    ],
)
def test_parameter_refuses_what_does_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Own(nn.Module):
    """A model that the library does not know: a stack of matrices under a scan, then one more."""

    table: tuple = (("kernel", Parameter(nn.initializers.normal(1.0), (4, 4), ("embed", "embed"))),)
    undeclared: bool = False

    @nn.compact
    def __call__(self, x):
        x = jnp.zeros((*x.shape, 4)) + 1.0
        layers = nn.scan(Matrix, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layers(dict(self.table), name="layers")(x, None)
        if self.undeclared:
            x = x * self.param("gain", ONES, (1, 1, 1))
        return Matrix(dict(self.table), name="last")(x, None)[0]


class Matrix(nn.Module):
    table: dict

    @nn.compact
    def __call__(self, x, _):
        return x @ declare(self, self.table)["kernel"], None


def test_own_module_has_a_tree():
    """A module without a config of the library; a scan adds the axis of layers."""
    tree = parameters(Own())
    assert {path: (p.shape, p.axes) for path, p in tree.items()} == {
        "layers/kernel": ((3, 4, 4), ("layers", "embed", "embed")),
        "last/kernel": ((4, 4), ("embed", "embed")),
    }


def test_undeclared_parameter_is_refused_by_name():
    with pytest.raises(ValueError, match=r"no table declares the parameters gain: create them with .*declare"):
        parameters(Own(undeclared=True))


def test_table_of_tuples_is_refused_by_name(unchecked_shapes):
    with pytest.raises(ValueError, match="Matrix declares kernel as .*; it must be a Parameter"):
        parameters(Own(table=(("kernel", (ONES, (4, 4))),)))


def test_unknown_config_names_the_choices(unchecked_shapes):
    with pytest.raises(ValueError, match="must be a Linen module or one of LanguageModelConfig, ClassifierConfig"):
        parameters(GLA())


def test_vector_inputs_need_their_width():
    config = RegressorConfig(dim=8, num_layers=1)
    with pytest.raises(ValueError, match=r"reads vectors \(B, T, F\); say their width with input_dim=F"):
        parameters(config)
    assert parameters(config, input_dim=5)["in_embedding/kernel"].shape == (5, 8)
    with pytest.raises(ValueError, match="reads tokens; input_dim must be None, got 5"):
        parameters(LanguageModelConfig(dim=8, num_layers=1), input_dim=5)


def test_tree_of_a_language_model_is_its_parameters():
    config = LanguageModelConfig(
        dim=8,
        num_layers=4,
        first=(Attention(num_heads=2),),
        pattern=(GLA(num_heads=2),),
        projection=MixtureOfExperts(num_experts=3, choice_bias=True, shared_hidden=8, shared_gate=True),
        tied_head=False,
    )
    tree = parameters(config)
    made = jax.eval_shape(LanguageModel(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(made)
    assert {path: p.shape for path, p in tree.items()} == {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
    }
    assert tree["embedding"].axes == ("vocab", "embed")
    assert tree["out_kernel"].axes == ("embed", "vocab")
    assert tree["backbone/groups/0_gla/mixer/in_q"].axes == ("layers", "embed", "heads")
    assert tree["backbone/first/0_attention/projection/in_gates"].axes == ("experts", "embed", "hidden")
    assert {p.role for p in tree.values()} <= set(ROLES)
    assert {axis for p in tree.values() for axis in p.axes} <= {*AXES, None}


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (ClassifierConfig(dim=8, num_layers=1, projection=None), {"input_dim": 3}),
        (RegressorConfig(dim=8, num_layers=1, projection=None), {"input_dim": 3}),
        (ClassifierConfig(dim=8, num_layers=1, projection=None, vocab_size=9), {}),
    ],
)
def test_readout_decays_its_head_and_input_matrix(config, options):
    tree = parameters(config, **options)
    assert tree["out_head/kernel"].role == "head"
    assert tree["out_head/kernel"].is_decayed
    assert not tree["out_head/bias"].is_decayed
    if options:
        assert tree["in_embedding/kernel"].is_decayed
    else:
        assert not tree["embedding/embedding"].is_decayed


@pytest.mark.parametrize("mixer", [LRU(state_dim=4), S5(state_dim=4, num_blocks=1)])
def test_state_space_input_matrix_has_no_decay(mixer):
    """The authors train B like the eigenvalues, and decay C."""
    tree = parameters(LanguageModelConfig(dim=8, num_layers=1, pattern=(mixer,), projection=MLP()))
    own = {path.rpartition("/")[2]: p for path, p in tree.items() if "/mixer/" in path}
    assert {name for name, p in own.items() if p.is_decayed} >= {"out_real", "out_imag"}
    for name in ("in_real", "in_imag"):
        assert own[name].role == "recurrence"
        assert not own[name].is_decayed


def test_rwkv7_decays_its_large_matrices_alone():
    """As its authors' code does: weights of linear maps, but neither low-rank matrices nor vectors."""
    config = LanguageModelConfig(
        dim=8,
        num_layers=2,
        first=(RWKV7(num_heads=2),),
        pattern=(RWKV7(num_heads=2, value_residual=True),),
        projection=None,
    )
    own = {path.rpartition("/")[2]: p for path, p in parameters(config).items() if "/mixer/" in path}
    assert {name for name, p in own.items() if p.is_decayed} == {"in_r", "in_k", "in_v", "out_kernel"}
    assert {name for name, p in own.items() if p.learning_rate != 1} == {"decay_bias"}
    assert own["decay_bias"].learning_rate == 2
