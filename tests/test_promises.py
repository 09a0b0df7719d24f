"""What a run promises, under each objective: kills, signals, meshes, losses that are not finite, other models."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest

from eval.run import open_run
from recurrax.adapters import LoRA
from recurrax.mixers import LRU
from recurrax.models import LanguageModelConfig
from runs import at_batch, metrics, saved_state, small
from test_objectives import CONFIGS, masked
from train import session
from train.checkpoint import CheckpointConfig
from train.config import EvaluationConfig, LogConfig
from train.config_json import from_json, to_json
from train.evaluate import Evaluation
from train.loop import Outcome, train
from train.objectives import Distillation, NextToken
from train.optimizers import AdamW
from train.sharding import MeshConfig
from train.starts import Run
from train.workdir import Workdir

pytestmark = pytest.mark.usefixtures("compiled_once")


def language(text, objective):
    return small(
        text,
        steps=4,
        objective=objective,
        model=LanguageModelConfig(vocab_size=288, dim=16, num_layers=2, pattern=(LRU(state_dim=8),), projection=None),
        optimizer=AdamW(learning_rate=1e-2),
        evaluation=EvaluationConfig(every=2, batch_size=8, max_batches=2),
        checkpoint=CheckpointConfig(every=2),
        log=LogConfig(every=1),
    )


RUNS = {name: lambda text, run, name=name: CONFIGS[name] for name in ("classes of steps", "numbers")} | {
    "hidden tokens": lambda text, run: masked(text),
    "next token": lambda text, run: language(text, NextToken(z_loss=1e-3)),
    "an adapter": lambda text, run: dataclasses.replace(language(text, NextToken()), adapter=LoRA(rank=2)),
    "a teacher": lambda text, run: language(text, Distillation(teachers=(Run(str(run)),), hard=0.5)),
}


def poisoned(batch):
    """The batch with inputs that no model can read."""
    inputs = batch["inputs"]
    return {**batch, "inputs": inputs * np.nan if inputs.dtype == np.float32 else inputs + 100_000}


@pytest.mark.parametrize("name", RUNS)
def test_run_keeps_its_promises(name, text, small_run, tmp_path, monkeypatch, capfd):
    """Stopped by a signal and taken up it is the same to the bit; on a mesh it sees the same batches.

    A loss that is not finite overwrites nothing, and another model is refused.
    """
    config = RUNS[name](text, small_run)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert train(config, str(tmp_path / "whole")) == Outcome(4, interrupted=False)
    rows, saved = metrics(tmp_path / "whole"), saved_state(tmp_path / "whole")
    means = {n.removeprefix("validation_"): v for n, v in rows[-1].items() if n.startswith("validation_")}
    assert means.keys() == {"loss", *(n for n in config.objective.held_out().metrics if n in means)}
    assert f"held out {config.objective.show_held_out(means)}" in capfd.readouterr().out
    assert (tmp_path / "whole" / "loss.png").stat().st_size

    with monkeypatch.context() as patch:
        at_batch(patch, 3, lambda batch: os.kill(os.getpid(), signal.SIGTERM))
        assert train(config, str(tmp_path / "pieces")) == Outcome(3, interrupted=True)
    assert f"Stopped by a signal: step 3 is saved in {tmp_path}/pieces/checkpoints" in capfd.readouterr().out
    assert not (tmp_path / "pieces" / "loss.png").exists()
    assert train(config, str(tmp_path / "pieces")) == Outcome(4, interrupted=False)
    assert saved_state(tmp_path / "pieces") == saved

    train(dataclasses.replace(config, mesh=MeshConfig(data=2, fsdp=2, time=2)), str(tmp_path / "mesh"))
    for row, other in zip(rows, metrics(tmp_path / "mesh"), strict=True):
        assert row == pytest.approx(other, rel=1e-4)

    with monkeypatch.context() as patch:
        at_batch(patch, 5, poisoned)
        with pytest.raises(FloatingPointError, match="at step 5; the last good checkpoint is that of step 4"):
            train(dataclasses.replace(config, steps=8), str(tmp_path / "pieces"))
    assert saved_state(tmp_path / "pieces") == saved
    assert sorted(os.listdir(Workdir(tmp_path / "pieces").checkpoints_path)) == ["2", "3", "4"]

    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, dim=2 * config.model.dim))
    with pytest.raises(ValueError, match="has another model"):
        train(wider, str(tmp_path / "whole"))
    assert saved_state(tmp_path / "whole") == saved


def test_only_language_models_are_opened(tmp_path):
    train(CONFIGS["numbers"], str(tmp_path / "run"))
    with pytest.raises(ValueError, match="trains a .*; this reads language models"):
        open_run(str(tmp_path / "run"))


def test_best_checkpoint_is_that_of_the_named_metric(tmp_path, monkeypatch):
    """The one of the highest accuracy stays, not that of the lowest loss; a metric that is not reported is refused."""
    found = iter([(3.0, 0.9), (1.0, 0.2), (2.0, 0.5), (4.0, 0.4)])

    def evaluate(*_):
        loss, accuracy = next(found)
        return Evaluation(loss, 10, {"accuracy": accuracy})

    monkeypatch.setattr(session, "make_evaluator", lambda *_, **__: evaluate)
    config = CONFIGS["classes of steps"]
    config = dataclasses.replace(
        config,
        evaluation=dataclasses.replace(config.evaluation, every=1),
        checkpoint=CheckpointConfig(every=1, keep=1, best="accuracy"),
    )
    train(config, str(tmp_path / "run"))
    assert sorted(os.listdir(Workdir(tmp_path / "run").checkpoints_path)) == ["1", "4"]
    for objective, best in ((NextToken(), "bytes_per_token"), (NextToken(), "cross_entropy"), (NextToken(), "acuracy")):
        with pytest.raises(ValueError, match=f"checkpoint.best '{best}'"):
            dataclasses.replace(language("x", objective), checkpoint=CheckpointConfig(best=best))
