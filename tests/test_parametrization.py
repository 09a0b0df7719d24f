"""muP: its factors, and that widths learn alike at one learning rate."""

import dataclasses

import numpy as np
import pytest

from recurrax.mixers import GLA, LRU, Attention
from recurrax.models import LanguageModelConfig
from recurrax.parameters import flat
from runs import small
from train import sharding
from train.__main__ import main
from train.optimizers import SGD
from train.parametrization import MuP, Standard
from train.state import abstract_state, declarations, init_state

MODEL = LanguageModelConfig(
    vocab_size=288, dim=32, num_layers=8, pattern=(GLA(num_heads=4), LRU(state_dim=8)), tied_head=False
)


def run(text="x", **changes):
    return dataclasses.replace(small(text), model=MODEL, **changes)


def test_factors_are_those_of_the_papers():
    """Width 32 over 8: r = 4; depth 8 over 2: l = 4."""
    plain, scaled = declarations(run()), declarations(run(parametrization=MuP(8, 2)))
    rates = {path: scaled[path].learning_rate / plain[path].learning_rate for path in plain}
    gla, lru = "backbone/groups/0_gla", "backbone/groups/1_lru"
    expected = {
        "embedding": 1 / 2,
        "out_kernel": 1 / 4,
        "backbone/norm/scale": 1,
        f"{gla}/mixer/in_q": 1 / 4 / 2,
        f"{gla}/mixer/out_kernel": 1 / 4 / 4,
        f"{gla}/mixer/decay_kernel": 1 / 2,  # it reads a fixed rank
        f"{gla}/mixer/decay_bias": 1 / 2,
        f"{gla}/mixer_norm/scale": 1 / 2,
        f"{lru}/mixer/in_real": 1 / 4 / 2,
        f"{lru}/mixer/out_real": 1 / 4,  # it reads a fixed number of states
        f"{lru}/mixer/nu_log": 1 / 2,
    }
    assert {path: rates[path] for path in expected} == pytest.approx(expected)


def test_first_values_are_scaled():
    def first(config):
        return flat(init_state(config, abstract_state(config, sharding.make_mesh(config.mesh))).params)

    plain, scaled = first(run()), first(run(parametrization=MuP(8, 2)))
    for path, leaf in plain.items():
        ends = path.endswith(("mixer/out_kernel", "mixer/out_real", "mixer/out_imag", "projection/out_kernel"))
        factor = 0.5 if path == "out_kernel" or ends else 1
        np.testing.assert_allclose(scaled[path], factor * leaf, rtol=1e-6)
    base = first(run(parametrization=MuP(32, 8)))
    assert all(base[path].tobytes() == plain[path].tobytes() for path in plain)
    assert declarations(run(parametrization=MuP(32))) == declarations(run(parametrization=Standard()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": dataclasses.replace(MODEL, tied_head=True)}, "with model.tied_head False"),
        ({"model": dataclasses.replace(MODEL, embedding_scale=1.0)}, "needs model.embedding_scale None"),
        ({"model": dataclasses.replace(MODEL, pattern=(Attention(num_heads=16),))}, "dim 8 is not divisible"),
    ],
)
def test_models_that_mup_does_not_know_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        declarations(dataclasses.replace(run(parametrization=MuP(8)), **changes))


def test_optimizers_that_mup_does_not_know_are_refused():
    with pytest.raises(ValueError, match="is for AdamW, ScheduleFreeAdamW and Lion, got SGD"):
        run(parametrization=MuP(8), optimizer=SGD())


@pytest.mark.usefixtures("compiled_once")
def test_describe_has_the_norms_of_a_run(small_run, text, capsys):
    from runs import flags

    assert main(["tiny", *flags(text), "--describe", "--workdir", str(small_run)]) == 0
    out = capsys.readouterr().out.splitlines()
    (header,) = [i for i, line in enumerate(out) if line.startswith("parameters") and "norm" in line]
    assert float(out[header + 1].split()[1]) > 0
