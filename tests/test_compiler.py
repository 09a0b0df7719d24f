"""Programs of affected versions are compiled without the fusions that compute wrong numbers."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from train import compiler

DELTANET = """
from train.compiler import avoid_unsound_fusions
avoid_unsound_fusions()
import jax, numpy as np
from recurrax.mixers import DeltaNet
from recurrax.models import Classifier, ClassifierConfig
config = ClassifierConfig(dim=64, num_layers=2, pattern=(DeltaNet(num_heads=1),), vocab_size=32, pooling="none")
model = Classifier(config)
tokens = np.random.default_rng(0).integers(32, size=(128, 32)).astype(np.int32)
params = jax.jit(model.init)(jax.random.key(0), tokens[:1, :4])["params"]
apply = jax.jit(lambda params, tokens: model.apply({"params": params}, tokens)[0])
print(float(np.abs(apply(params, tokens)[:4] - apply(params, tokens[:4])).max()))
"""


@pytest.mark.parametrize(
    ("version", "flags", "wanted"),
    [
        ("0.10.2", None, f"{compiler.FLAG}="),
        ("0.11.0", "--xla_dump_to=x", f"--xla_dump_to=x {compiler.FLAG}="),
        ("0.10.1", "--xla_dump_to=x", "--xla_dump_to=x"),
        ("0.10.2", f"{compiler.FLAG}=LIBRARY_FUSION_TYPE_DOT", f"{compiler.FLAG}=LIBRARY_FUSION_TYPE_DOT"),
    ],
)
def test_unsound_fusions_are_avoided_where_needed(monkeypatch, version, flags, wanted):
    """The flag is set for affected versions alone, and a user's own choice is kept."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setenv("XLA_FLAGS", flags or "")
    compiler.avoid_unsound_fusions()
    assert os.environ["XLA_FLAGS"] == wanted


def test_rows_do_not_depend_on_batch_size():
    """The rows of a large batch are those of a small one."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", DELTANET], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 1e-4
