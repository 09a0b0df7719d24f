"""Provides named runs. Each docstring says what is trained, how long it takes on which machine, and the result."""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable

from recurrax.mixers import GLA, LRU, RGLRU, Attention, GatedDeltaNet
from recurrax.models import ClassifierConfig, LanguageModelConfig
from recurrax.projections import GLU
from recurrax.tasks import SequentialImages
from train.checkpoint import CheckpointConfig
from train.config import EvaluationConfig, LogConfig, TrainConfig
from train.data import VOCAB_SIZE, DataConfig, TaskData
from train.objectives import Classification, Distillation
from train.optimizers import AdamW, Cosine
from train.sharding import MeshConfig
from train.starts import stored_in
from train.user_code import find_function


def default() -> TrainConfig:
    """Griffin's pattern, 0.65 M parameters, on the sources of Python's own standard library: minutes on two CPU cores.

    2,400 steps of 1,024 bytes. Expect 1.8 bits per byte on the held-out files, where byte pairs make 3.4 and xz -9
    makes 1.8. Seen on two cores (jax 0.10.2, Python 3.11.7): 1.77 on an Intel Xeon, 1.83 on an AMD EPYC, in 5 minutes.
    """
    return TrainConfig(
        steps=2400,
        model=LanguageModelConfig(
            vocab_size=VOCAB_SIZE,
            dim=128,
            num_layers=3,
            pattern=(RGLRU(num_heads=4), RGLRU(num_heads=4), Attention(num_heads=2, num_kv_heads=1, window=128)),
            projection=GLU(expansion=3.0),
        ),
        # Small batches: on a CPU a step of 1,024 tokens already uses all cores, and many small steps learn faster.
        data=DataConfig(dataset="python_stdlib", sequence_length=256, batch_size=4),
        optimizer=AdamW(learning_rate=6e-3, schedule=Cosine(warmup_steps=100, decay_steps=2400, final_fraction=0.02)),
        evaluation=EvaluationConfig(every=500, batch_size=4, max_batches=64),
        checkpoint=CheckpointConfig(every=500),
        log=LogConfig(every=50),
        mesh=MeshConfig(data=1),  # a model this small has no work for a second device
    )


def tiny() -> TrainConfig:
    """The default's shape in miniature, for tests and for trying things out: forty steps in seconds on any machine.

    It learns which bytes are frequent, no more: about 4.3 bits per byte.
    """
    return TrainConfig(
        steps=40,
        model=LanguageModelConfig(
            vocab_size=VOCAB_SIZE,
            dim=32,
            num_layers=3,
            pattern=(RGLRU(num_heads=2), RGLRU(num_heads=2), Attention(num_heads=2, num_kv_heads=1, window=32)),
            projection=GLU(expansion=2.0),
        ),
        data=DataConfig(dataset="python_stdlib", sequence_length=64, batch_size=8),
        optimizer=AdamW(learning_rate=1e-2, schedule=Cosine(warmup_steps=5, decay_steps=40)),
        evaluation=EvaluationConfig(every=20, batch_size=8, max_batches=4),
        checkpoint=CheckpointConfig(every=10),
        log=LogConfig(every=1),
        mesh=MeshConfig(data=1),
    )


def digits() -> TrainConfig:
    """Two LRU layers that classify scikit-learn's 8 x 8 digits, pixel by pixel: a minute on two CPU cores.

    1,000 steps of 64 images. Expect 98 % of the held-out images. `--data.task "SequentialImages(source='mnist')"` reads
    MNIST instead.
    """
    return TrainConfig(
        steps=1000,
        model=ClassifierConfig(
            dim=64, num_layers=2, pattern=(LRU(state_dim=64, r_min=0.9, r_max=0.999),), projection=GLU(expansion=1.0)
        ),
        objective=Classification(),
        data=TaskData(task=SequentialImages(), batch_size=64, held_out=352),
        optimizer=AdamW(learning_rate=4e-3, schedule=Cosine(warmup_steps=100, decay_steps=1000, final_fraction=0.02)),
        evaluation=EvaluationConfig(every=250, batch_size=88),
        checkpoint=CheckpointConfig(every=250),
        log=LogConfig(every=50),
        mesh=MeshConfig(data=1),
    )


def finetune(directory: str) -> TrainConfig:
    """A published checkpoint or a run of yours, trained further on a text: finetune:DIR.

    DIR has config.json, safetensors files and tokenizer.json of a family in `recurrax.pretrained`, or is a run's
    working directory. --data.path names the text. 200 steps of 4,096 tokens; all parameters are trained.
    """
    start = stored_in(directory)
    return TrainConfig(
        steps=200,
        model=start.model(),
        start=start,
        data=DataConfig(tokenizer=start.tokenizer(), sequence_length=512, batch_size=8),
        optimizer=AdamW(learning_rate=1e-4, schedule=Cosine(warmup_steps=20, decay_steps=200)),
        evaluation=EvaluationConfig(every=50, batch_size=8, max_batches=64),
        checkpoint=CheckpointConfig(every=50),
        log=LogConfig(every=10),
        mesh=MeshConfig(data=1),
    )


def tokens(directory: str) -> TrainConfig:
    """The default's model, trained from nothing in the tokens of a tokenizer.json: tokens:DIR.

    DIR has tokenizer.json and config.json of a published checkpoint. 1,000 steps of 1,024 tokens on the sources of
    Python's own standard library, or on the text that --data.path names; the loss is shown in bits per byte.
    """
    data = DataConfig(tokenizer=directory, sequence_length=256, batch_size=4)
    largest = max(*data.vocabulary.ids, data.vocabulary.start)
    config = default()
    return dataclasses.replace(
        config,
        steps=1000,
        model=dataclasses.replace(config.model, vocab_size=-(-(largest + 1) // 32) * 32),  # any usual mesh divides it
        data=data,
        optimizer=dataclasses.replace(config.optimizer, schedule=Cosine(warmup_steps=100, decay_steps=1000)),
    )


def distill(directory: str) -> TrainConfig:
    """A small GLA model that learns from a run or a published checkpoint, its teacher: distill:DIR.

    1,000 steps of 1,024 tokens on the sources of Python's own standard library, or on the text that --data.path names,
    in the teacher's tokens. The loss is half the divergence from the teacher and half that of the text.
    """
    teacher = stored_in(directory)
    return TrainConfig(
        steps=1000,
        model=LanguageModelConfig(
            vocab_size=teacher.model().vocab_size,
            dim=64,
            num_layers=2,
            pattern=(GLA(num_heads=2),),
            projection=GLU(expansion=2.0),
        ),
        objective=Distillation(teachers=(teacher,), temperature=1.0, soft=0.5, hard=0.5),
        data=DataConfig(tokenizer=teacher.tokenizer(), sequence_length=256, batch_size=4),
        optimizer=AdamW(learning_rate=6e-3, schedule=Cosine(warmup_steps=50, decay_steps=1000, final_fraction=0.02)),
        evaluation=EvaluationConfig(every=250, batch_size=4, max_batches=64),
        checkpoint=CheckpointConfig(every=250),
        log=LogConfig(every=50),
        mesh=MeshConfig(data=1),
    )


def griffin_100m() -> TrainConfig:
    """Griffin's pattern at 98 M parameters on lm1b, in bfloat16: a run for one accelerator or a few.

    2.6 billion bytes in 20,000 steps of 131,072. lm1b is downloaded and prepared at the first use. More devices take
    more rows: --mesh.fsdp splits the parameters, --data.batch_size sets the rows. Not measured on an accelerator yet.
    """
    return TrainConfig(
        steps=20_000,
        model=LanguageModelConfig(
            vocab_size=VOCAB_SIZE,
            dim=768,
            num_layers=14,
            pattern=(RGLRU(num_heads=12), RGLRU(num_heads=12), Attention(num_heads=12, num_kv_heads=1, window=1024)),
            projection=GLU(expansion=3.0),
            dtype="bfloat16",
            remat="nothing_saveable",
        ),
        data=DataConfig(dataset="lm1b", sequence_length=2048, batch_size=64),
        optimizer=AdamW(learning_rate=1e-3, schedule=Cosine(warmup_steps=1000, decay_steps=20_000)),
        evaluation=EvaluationConfig(every=1000, batch_size=64, max_batches=64),
        checkpoint=CheckpointConfig(every=500),
        log=LogConfig(every=20),
    )


def gla_1b() -> TrainConfig:
    """Gated linear attention at 1.2 billion parameters: 24 layers of width 2,048 with 4 heads.

    The shape of the largest model of the GLA paper, with byte tokens. --mesh.fsdp splits the parameters,
    --data.batch_size sets the rows, and --plan says what a device then holds (docs/scaling.md). Never trained.
    """
    return _large(dim=2048, num_layers=24, pattern=(GLA(num_heads=4),), projection=GLU(expansion=2.75))


def griffin_2b() -> TrainConfig:
    """Griffin's pattern at 2.0 billion parameters: 26 layers of width 2,560, windows of 2,048 tokens.

    The shape of RecurrentGemma 2B, with byte tokens. See gla_1b for how it is split. Never trained.
    """
    return _large(
        dim=2560,
        num_layers=26,
        pattern=(RGLRU(num_heads=10), RGLRU(num_heads=10), Attention(num_heads=10, num_kv_heads=1, window=2048)),
        projection=GLU(expansion=3.0),
    )


def gated_deltanet_hybrid_7b() -> TrainConfig:
    """Gated DeltaNet and attention, three layers to one, at 7.6 billion parameters: 32 layers of width 4,096.

    The mixture of Qwen3-Next, as wide and deep as usual 7B models, with byte tokens. See gla_1b for how it is split.
    Never trained.
    """
    return _large(
        dim=4096,
        num_layers=32,
        pattern=(*[GatedDeltaNet(num_heads=16)] * 3, Attention(num_heads=32, num_kv_heads=8, max_length=8192)),
        projection=GLU(expansion=3.0),
    )


def _large(**shape) -> TrainConfig:
    """Return a run of billions of parameters; --data.dataset or --data.path selects a text of that length."""
    return TrainConfig(
        steps=100_000,
        model=LanguageModelConfig(
            vocab_size=VOCAB_SIZE, dtype="bfloat16", remat="dots_with_no_batch_dims_saveable", **shape
        ),
        data=DataConfig(dataset="lm1b", sequence_length=2048, batch_size=256),
        optimizer=AdamW(learning_rate=3e-4, schedule=Cosine(warmup_steps=2000, decay_steps=100_000)),
        evaluation=EvaluationConfig(every=2000, batch_size=256, max_batches=16),
        checkpoint=CheckpointConfig(every=1000),
        log=LogConfig(every=20),
    )


PRESETS: dict[str, Callable[..., TrainConfig]] = {
    preset.__name__: preset
    for preset in (
        default,
        tiny,
        digits,
        finetune,
        distill,
        tokens,
        griffin_100m,
        gla_1b,
        griffin_2b,
        gated_deltanet_hybrid_7b,
    )
}


def find(name: str) -> Callable[[], TrainConfig]:
    """Return the preset NAME or NAME:DIR, or the function of "FILE.py:FUNCTION", which returns a `TrainConfig`.

    The folder of the file becomes a place to import from, as for a script.

    Raises:
      ValueError: no preset has this name (the message has the closest one), the directory that it needs is missing or
        one that it does not need is given, or the file or its function is missing.
    """
    if ".py:" in name:
        return _from_file(name)
    name, _, directory = name.partition(":")
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown preset {name!r}.{hint} There are: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if takes_directory(preset) != bool(directory):
        needs = "needs a directory" if takes_directory(preset) else "takes no directory"
        raise ValueError(f"the preset {name} {needs}: python -m train {usage(name)}")
    if not directory:
        return preset
    return functools.wraps(preset)(functools.partial(preset, directory))


def takes_directory(preset: Callable[..., TrainConfig]) -> bool:
    """Return whether the preset is of the form NAME:DIR."""
    return bool(inspect.signature(preset).parameters)


def usage(name: str) -> str:
    """Return the form in which a preset is named on the command line."""
    return f"{name}:DIR" if takes_directory(PRESETS[name]) else name


def _from_file(name: str) -> Callable[[], TrainConfig]:
    preset = find_function(name, "the preset")

    def checked() -> TrainConfig:
        config = preset()
        if not isinstance(config, TrainConfig):
            raise ValueError(f"{name} must return a TrainConfig, got {config!r:.80}")
        return config

    checked.__doc__ = preset.__doc__ or f"The preset {name}."
    return checked
