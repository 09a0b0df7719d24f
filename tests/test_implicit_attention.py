"""Implicit attention is the layer, for every mixer and to the last digits."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_cases import DIM, MIXERS
from oracles.common import sigmoid, silu, softplus
from probing import BATCH, FLOAT64, LENGTH, TOKENS, apply, attend, convolved, draw, error
from recurrax import probes
from recurrax.layers import RECURRENT
from recurrax.mixers import (
    GLA,
    HGRN,
    LMU,
    LRU,
    LSSL,
    RWKV7,
    S4,
    S4D,
    S5,
    Attention,
    Mamba,
    MixerConfig,
)
from recurrax.mixers.base import Mixer, fan_in
from recurrax.mixers.marks import mark
from recurrax.models import Classifier, ClassifierConfig, LanguageModel, LanguageModelConfig, Regressor, RegressorConfig
from recurrax.parameters import reads, writes
from recurrax.projections import ChannelMix

# Cases whose options change nothing between values and what is mixed.
ALIKE = ("S4D of LegS", "S5 bilinear", "S5 with the gate of GELU", "S5 without a gate", "Mamba-2 with a limit")
CASES = {name: case for name, case in MIXERS.items() if not isinstance(case.config, ChannelMix) and name not in ALIKE}
# Their output projection is not all that follows what they mix.
READ_OUT = (LRU, S5, HGRN, LMU, S4D, S4, LSSL)


@pytest.mark.parametrize("name", CASES)
def test_implicit_matrix_reproduces_the_layer_output(name):
    """The matrix times the values is what the layer mixes, and thus its output."""
    layer, _, params, x = attend(CASES[name].config)
    assert layer.matrix.dtype in (np.float64, np.complex128)
    assert error(apply(layer), layer.mixed) <= FLOAT64
    assert np.abs(layer.matrix).max() > 0.05
    assert np.abs(layer.matrix * (layer.distance < 0)).max() <= FLOAT64 * np.abs(layer.matrix).max()
    assert layer.heads.shape == (BATCH, layer.num_heads, LENGTH, layer.matrix.shape[3])
    if not isinstance(layer.config, READ_OUT):
        y = layer.mixed @ params["out_kernel"] + params.get("bias", params.get("bias_out", 0))
        # Angles and fixed decays are made in float32.
        assert error(y, CASES[name].oracle(params, x, None, layer.config)) <= 1e-6


def test_table_covers_every_mixer():
    """The mixers of `mixers/layers` are; `Reversed` and `Bidirectional` are not linear in the values of one mixer."""
    here = {
        config for config in MixerConfig.__subclasses__() if config.__module__.startswith("recurrax.mixers.layers.")
    }
    assert {type(case.config) for case in CASES.values()} == here


def test_lru_by_hand():
    layer, _, p, x = attend(LRU(state_dim=3))
    a = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    power = np.maximum(layer.distance, 0)
    want = np.where(layer.distance >= 0, np.exp(p["gamma_log"])[:, None, None] * a[:, None, None] ** power, 0)
    assert error(layer.matrix, np.stack(BATCH * [want])) <= FLOAT64
    assert error(layer.values, x @ (p["in_real"] + 1j * p["in_imag"])) <= FLOAT64
    assert not layer.offset.any()


def test_gla_by_hand():
    config = GLA(num_heads=4, num_kv_heads=2, head_dim=3, value_head_dim=2, gate_rank=2, conv_width=3)
    layer, _, p, x = attend(config)
    for b in range(BATCH):
        qkv = {n: x[b] @ p[f"in_{n}"] for n in "qkv"}
        assert error(layer.values[b].reshape(LENGTH, 4, 2)[:, ::2], qkv["v"].reshape(LENGTH, 2, 2)) <= FLOAT64
        before = {n: np.einsum("tse,se->te", convolved(p[f"conv_{n}"]), z) for n, z in qkv.items()}
        q, k = (silu(before[n]).reshape(LENGTH, -1, 3) for n in "qk")
        decay = sigmoid(x[b] @ p["in_decay"] @ p["decay_kernel"] + p["decay_bias"]) ** (1 / 16)
        decay = decay.reshape(LENGTH, 2, 3)
        for h in range(4):
            scores = np.zeros((LENGTH, LENGTH))
            for t in range(LENGTH):
                for s in range(t + 1):
                    kept = decay[s + 1 : t + 1, h // 2].prod(0)
                    scores[t, s] = (q[t, h] * kept * k[s, h // 2]).sum() / np.sqrt(3)
            own = slice(2 * (h // 2), 2 * (h // 2) + 2)
            o = scores @ silu(before["v"][:, own])
            out = p["norm_scale"] / np.sqrt((o**2).mean(1, keepdims=True) + config.norm_eps)
            out = out * silu(x[b] @ p["in_gate"])[:, 2 * h : 2 * h + 2]
            inner = sigmoid(before["v"][:, own])[:, None] * convolved(p["conv_v"])[..., own]
            want = np.einsum("te,tr,rse->ets", out, scores, inner)
            assert error(layer.matrix[b, 2 * h : 2 * h + 2], want) <= FLOAT64


def test_mamba_by_hand():
    config = Mamba(width=5, state_dim=3, dt_rank=2)
    layer, _, p, x = attend(config)
    a = -np.exp(p["a_log"])
    for b in range(BATCH):
        before = np.einsum("tse,se->te", convolved(p["conv_u"]), x[b] @ p["in_u"]) + p["conv_u_bias"]
        r, keys, queries = np.split(silu(before) @ p["select_kernel"], (2, 5), axis=1)
        dt = softplus(r @ p["dt_kernel"] + p["dt_bias"])
        scores = np.zeros((LENGTH, LENGTH, 5))
        for t in range(LENGTH):
            for s in range(t + 1):
                kept = np.exp(dt[s + 1 : t + 1].sum(0)[:, None] * a)
                scores[t, s] = dt[s] * (kept * keys[s] * queries[t]).sum(1)
            scores[t, t] += p["skip"]
        scores *= silu(x[b] @ p["in_gate"])[:, None] * sigmoid(before)
        want = np.einsum("tre,rse->ets", scores, convolved(p["conv_u"]))
        assert error(layer.matrix[b], want) <= FLOAT64
        assert error(layer.offset[b], np.einsum("tre,e->te", scores, p["conv_u_bias"])) <= FLOAT64


def test_documents_do_not_look_at_each_other():
    reset = np.zeros((BATCH, LENGTH), bool)
    reset[0, 4] = reset[1, 6] = True
    document = np.cumsum(reset, axis=1)
    other = document[:, :, None] != document[:, None, :]
    for config in (GLA(num_heads=2, conv_width=3), Attention(num_heads=2)):
        layer, *_ = attend(config, reset=reset)
        assert error(apply(layer), layer.mixed) <= FLOAT64
        assert not (layer.matrix * other[:, None]).any()


def test_columns_in_pieces_are_the_columns():
    whole, piecewise = (attend(GLA(num_heads=2), chunk_size=size)[0] for size in (64, 4))
    assert error(piecewise.matrix, whole.matrix) <= FLOAT64


@dataclasses.dataclass(frozen=True)
class Toy(MixerConfig):
    """y = W_out f(W x)."""

    capabilities = RECURRENT

    def layer(self, dim, dtype=jnp.float32, name=None):
        return ToyLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return jnp.zeros((batch_size,))


class ToyLayer(Mixer):
    def parameters(self, depth):
        return {"in_v": reads(fan_in, self.dim, self.dim), "out_kernel": writes(fan_in, self.dim, self.dim)}

    def run(self, params, x, state, **_):
        return self.config.mixed(x @ params["in_v"]) @ params["out_kernel"], self.init_state(len(x))


class Unmarked(Toy):
    def mixed(self, v):
        return v


class Squared(Toy):
    def mixed(self, v):
        v = mark("values", v)
        return mark("mixed", v * jnp.roll(v, 1, axis=2))


class Inverse(Toy):
    def mixed(self, v):
        return mark("mixed", 1 / mark("values", v))


class Centred(Toy):
    def mixed(self, v):
        v = mark("values", v)
        return mark("mixed", v - v.mean(-1, keepdims=True))


class Declared(Centred):
    capabilities = RECURRENT._replace(linear_in_values=False)


class Gated(Squared):
    def mixed(self, v):
        mark("log_decay", jnp.full_like(v, -0.5))
        mark("matrix_state", jnp.broadcast_to(jnp.eye(DIM), (len(v), 1, DIM, DIM)))
        return super().mixed(v)


class Selected(Toy):
    def mixed(self, v):
        v = mark("values", v)
        return mark("mixed", jnp.maximum(v, 0) + jnp.where(v > 1, v, -v) + jnp.abs(mark("coefficients", v)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Unmarked(), r"Unmarked\(\) does not mark its values"),
        (Squared(), r"Squared\(\): mul of two arrays that both depend on the values"),
        (Inverse(), r"Inverse\(\): div of two arrays that both depend on the values"),
        (Centred(), r"Centred\(\) is not linear in its values: the matrix misses the mixed values by"),
        (Declared(), "its config declares linear_in_values=False"),
    ],
)
def test_nonlinear_layer_has_a_reason_and_no_matrix(config, message):
    layer, marks, *_ = attend(config)
    assert re.search(message, layer.reason)
    assert layer.matrix is layer.values is layer.offset is layer.mixed is None
    assert ("values" in marks) == (type(config) is not Unmarked)
    with pytest.raises(ValueError, match=f"0 has no implicit attention: .*{message}"):
        layer.heads  # noqa: B018


def test_nonlinear_layer_leaves_the_report_of_others():
    """A layer without a matrix keeps its row, with rank and half-life; the other layers keep theirs."""
    model = LanguageModel(
        LanguageModelConfig(dim=DIM, num_layers=2, pattern=(Gated(), GLA(num_heads=2)), projection=None, vocab_size=11)
    )
    params = jax.jit(model.init)(jax.random.key(1), TOKENS)
    toy, linear = probes.implicit_attention(model, params, TOKENS)
    assert toy.reason
    assert toy.matrix is None
    assert error(apply(linear), linear.mixed) <= 1e-6
    report = probes.state_report(model, params, TOKENS)
    assert report.layers[0].reach is None
    assert report.layers[0].not_linear == toy.reason
    np.testing.assert_allclose(report.layers[0].half_life, np.full((3, 1), np.log(2) / 0.5), rtol=1e-6)
    np.testing.assert_allclose(report.layers[0].effective_rank, [DIM], rtol=1e-5)
    assert report.layers[1].reach.shape == (2,)
    assert "not linear in its values" in str(report).splitlines()[2]


def test_implicit_attention_keeps_discrete_choices():
    """A choice between values is the choice that was made."""
    layer, *_ = attend(Selected())
    v = layer.values
    want = (v > 0) + np.where(v > 1, 1.0, -1.0)
    np.testing.assert_allclose(np.einsum("bett->bte", layer.matrix), want, atol=FLOAT64)
    assert error(layer.offset, np.abs(v)) <= FLOAT64


HYBRID = {
    "dim": DIM,
    "num_layers": 6,
    "first": (RWKV7(num_heads=2),),
    "pattern": (GLA(num_heads=2), RWKV7(num_heads=2, value_residual=True)),
    "last": (Attention(num_heads=2),),
    "projection": None,
}


@functools.cache
def built(kind, config):
    model = kind(config)
    inputs = TOKENS if config.vocab_size else draw(BATCH, LENGTH, 3).astype(np.float32)
    return model, jax.jit(model.init)(jax.random.key(1), inputs), inputs


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (LanguageModel, LanguageModelConfig(**HYBRID, vocab_size=11, remat="dots_saveable")),
        (
            Classifier,
            ClassifierConfig(
                dim=DIM, num_layers=1, pattern=(GLA(num_heads=2),), projection=None, vocab_size=11, pooling="none"
            ),
        ),
        (Regressor, RegressorConfig(**{**HYBRID, "first": (), "pattern": (GLA(num_heads=2),)}, pooling="none")),
    ],
)
def test_a_model_is_its_layers_matrices_between_projections(kind, config):
    model, params, inputs = built(kind, config)
    found = probes.implicit_attention(model, params, inputs)
    mixers = [type(layer.config).__name__.lower() for layer in found]
    assert [layer.name for layer in found] == [f"{i}_{mixer}" for i, mixer in enumerate(mixers)]
    backbone = params["params"]["backbone"]
    kernels = []
    for part in ("first", "groups", "rest"):
        names = sorted(backbone.get(part, {}))
        stacks = [np.asarray(backbone[part][name]["mixer"]["out_kernel"]) for name in names]
        if part == "groups":
            kernels += [stack[i] for i in range(len(stacks[0])) for stack in stacks]
        else:
            kernels += stacks
    top = {name: np.asarray(value) for name, value in params["params"].items() if not isinstance(value, dict)}
    if kind is LanguageModel:
        x, head, bias = top["embedding"][inputs] * np.sqrt(DIM), top["embedding"].T, 0
    else:
        into, out = params["params"].get("in_embedding"), params["params"]["out_head"]
        embedded = params["params"]["embedding"]["embedding"][inputs] if into is None else inputs @ into["kernel"]
        x, head, bias = np.asarray(embedded), np.asarray(out["kernel"]), np.asarray(out["bias"])
    for layer, kernel in zip(found, kernels, strict=True):
        assert layer.matrix.dtype == np.float32
        x = x + apply(layer) @ kernel
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * np.asarray(backbone["norm"]["scale"])
    assert error(x @ head + bias, np.asarray(jax.jit(model.apply)(params, inputs)[0])) <= 1e-5


def test_float64_parameters_give_float64_matrices():
    """Parameters in float64 give float64 matrices of the same model."""
    model, params, _ = built(LanguageModel, LanguageModelConfig(**HYBRID, vocab_size=11, remat="dots_saveable"))
    narrow = probes.implicit_attention(model, params, TOKENS)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
        for layer, other in zip(probes.implicit_attention(model, wide, TOKENS), narrow, strict=True):
            assert layer.matrix.dtype == np.float64
            assert error(apply(layer), layer.mixed) <= FLOAT64
            assert error(other.matrix, layer.matrix) <= 1e-4


def test_what_does_not_fit_is_refused(unchecked_shapes):
    model, params, vectors = built(
        Regressor, RegressorConfig(**{**HYBRID, "first": (), "pattern": (GLA(num_heads=2),)}, pooling="none")
    )
    reader, of_reader, _ = built(LanguageModel, LanguageModelConfig(**HYBRID, vocab_size=11, remat="dots_saveable"))
    for arguments, message in [
        (
            (GLA().layer(DIM), params, vectors),
            "model must be one of LanguageModel, Classifier, .* got GLALayer",
        ),
        ((model, params, TOKENS), r"inputs must be vectors \(B, T, F\), got int64 of shape \(2, 9\)"),
        ((reader, of_reader, TOKENS[0]), r"tokens must be integers \(B, T\), got int64 of shape \(9,\)"),
        ((reader, of_reader, TOKENS / 2), "tokens must be integers"),
        ((reader, of_reader, TOKENS[:, :1]), "of 2 tokens at least"),
        ((reader, of_reader, TOKENS + 3), "tokens must be from 0 to 10, got 3 to 13"),
        ((reader, params, TOKENS), r"params are not this model's.*\n.*missing, should be"),
        ((reader, of_reader["params"], TOKENS), "params are not this model's"),
    ]:
        for probe in (probes.implicit_attention, probes.state_report):
            with pytest.raises(ValueError, match=message):
                probe(*arguments)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        probes.implicit_attention(reader, of_reader, TOKENS, chunk_size=0)
