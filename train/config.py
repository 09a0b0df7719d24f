"""Provides the config of a run as frozen dataclasses that check themselves."""

import dataclasses
import os

from recurrax import checks
from recurrax.adapters import ADAPTER, Adapter
from recurrax.layers import check_splits_time
from recurrax.models import ClassifierConfig, LanguageModelConfig, RegressorConfig
from train.checkpoint import CheckpointConfig
from train.config_json import from_json, to_json
from train.data import VOCAB_SIZE, ArrayData, DataConfig, FunctionData, TaskData
from train.objectives import NextToken, Objective
from train.optimizers import AdamW, Optimizer
from train.parametrization import Parametrization, Standard
from train.precision import PrecisionConfig
from train.sharding import MeshConfig
from train.starts import Random, Start
from train.workdir import read_json

ON_NONFINITE = ("stop", "skip")


def check_int32(group: str, config, *names: str) -> None:
    """Raise ValueError if an integer among these fields exceeds int32; fields of other types are not checked."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, int) and value >= 2**31:
            raise ValueError(f"{group}{'.' * bool(group)}{name} must be less than 2**31, got {value}")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation of the held-out loss during training."""

    every: int = 200
    """Number of steps between evaluations."""
    batch_size: int = 8
    """Number of lanes over which the held-out documents are distributed."""
    max_batches: int | None = None
    """Maximal number of batches per evaluation; None: the whole split."""

    def __post_init__(self):
        for name in ("every", "batch_size", "max_batches"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name} must be at least 1, got {getattr(self, name)}")
        check_int32("evaluation", self, "batch_size")


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """Logging of metrics during training."""

    every: int = 10
    """Number of steps between rows of metrics.jsonl."""
    tensorboard: bool = False
    """Whether TensorBoard event files are also written into the working directory (needs the extra `tensorboard`)."""

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"log.every must be at least 1, got {self.every}")


@dataclasses.dataclass(frozen=True)
class SpikeConfig:
    """Rewinding after a loss spike, and skipping the batches that led to it (arXiv 2204.02311, section 5.1)."""

    sigmas: float | None = None
    """Standard deviations above the mean of the last 128 losses at which a loss is a spike; None: no detection."""
    rewind: int = 100
    """Minimal number of steps to rewind: to the newest checkpoint of at least that age, or to the start."""
    limit: int = 10
    """Maximal number of rewinds in one call; the next spike ends the run."""

    def __post_init__(self):
        if self.sigmas is not None and not self.sigmas > 0:
            raise ValueError(f"spike.sigmas must be positive, got {self.sigmas}")
        for name in ("rewind", "limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"spike.{name} must be at least 1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """All settings that determine the computation of a run."""

    steps: int = 1000
    """Step up to which to train. The same command with a larger number resumes the run."""
    on_nonfinite: str = "stop"
    """Action on a non-finite loss or gradient: "stop" ends the run, "skip" leaves the state unchanged by the batch."""
    seed: int = 0
    """Seed of the parameters' initialisation and of the order of the data."""
    model: LanguageModelConfig | ClassifierConfig | RegressorConfig = LanguageModelConfig(vocab_size=VOCAB_SIZE)
    objective: Objective = NextToken()
    data: DataConfig | TaskData | ArrayData | FunctionData = DataConfig()
    optimizer: Optimizer = AdamW()
    parametrization: Parametrization = Standard()
    start: Start = Random()
    adapter: Adapter | None = None
    """Parameters beside those of the model, such as LoRA(rank=4) or InitialState(); None: there are none."""
    train: tuple[str, ...] | None = None
    """Roles, or patterns of paths, of the parameters that are trained; all others keep their first values. None: the
    adapter's, or all if there is no adapter."""
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    spike: SpikeConfig = SpikeConfig()
    mesh: MeshConfig = MeshConfig()
    precision: PrecisionConfig = PrecisionConfig()

    @property
    def trained(self) -> tuple[str, ...]:
        """Roles, or patterns of paths, of the parameters that are trained."""
        return self.train or (("*",) if self.adapter is None else (f"{ADAPTER}/*",))

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        check_int32("", self, "steps")
        check_int32("model", self.model, *(field.name for field in dataclasses.fields(self.model)))
        if self.on_nonfinite not in ON_NONFINITE:
            raise ValueError(f"on_nonfinite={self.on_nonfinite!r}: choose one of {', '.join(ON_NONFINITE)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")
        self.objective.check(self.model, self.data.kind)
        checks.choice("checkpoint.best", self.checkpoint.best, self.objective.held_out().criteria)
        self.data.check(self.model)
        if self.parametrization != Standard() and not self.optimizer.normalizes:
            raise ValueError(
                f"parametrization {type(self.parametrization).__name__} is for AdamW, ScheduleFreeAdamW and Lion, got "
                f"{type(self.optimizer).__name__}"
            )
        if self.mesh.time > 1:
            for layer in self.model.layout.layers:
                check_splits_time(layer)
        if self.precision.reduction != "float32" and self.precision.reduction != self.model.dtype:
            raise ValueError(
                f"precision.reduction {self.precision.reduction} is less than model.dtype {self.model.dtype}: products "
                "of float32 are summed in float32"
            )
        if self.data.batch_size % self.optimizer.accumulate:
            raise ValueError(
                f"data.batch_size {self.data.batch_size} is not divisible by "
                f"optimizer.accumulate {self.optimizer.accumulate}"
            )


def read_config(path: str | os.PathLike) -> dict:
    """Return the JSON of a run's config.json, in the form of this version.

    Raises:
      ValueError: the file is damaged.
    """
    data = read_json(path)
    optimizer = data.get("optimizer")
    if isinstance(optimizer, dict) and optimizer.get("type") == "train.config.OptimizerConfig":
        schedule = {name: optimizer.pop(name, None) for name in ("warmup_steps", "decay_steps", "final_fraction")}
        data["optimizer"] = {
            **optimizer,
            "type": "train.optimizers.AdamW",
            "schedule": {"type": "train.optimizers.Cosine", **schedule},
            "groups": [],
        }
    if isinstance(data.get("model"), dict):
        for name, value in (
            ("objective", NextToken()),
            ("parametrization", Standard()),
            ("start", Random()),
            ("adapter", None),
            ("train", None),
        ):
            data.setdefault(name, to_json(value))
        if data["train"] == ["*"]:
            data["train"] = None
    return data


def load_config(path: str | os.PathLike) -> TrainConfig:
    """Return the config in a run's config.json.

    Raises:
      ValueError: the file is damaged, or was written by another version.
    """
    config = from_json(read_config(path))
    if not isinstance(config, TrainConfig):
        raise ValueError(f"{path} is not the config of a run but of a {type(config).__name__}")
    return config
