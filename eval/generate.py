"""Provides `python -m eval generate`: text from a run or a published checkpoint, written while it is sampled."""

import dataclasses
import itertools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from eval.run import one_source, open_run, with_local_paths
from recurrax import adapters, pretrained
from recurrax.adapters import Materialised
from recurrax.models import LanguageModelConfig, generate, parameters, prefill
from recurrax.parameters import flat
from recurrax.pretrained import Tokenizer
from recurrax.types import Params, State
from train.checkpoint_check import misfits
from train.data import Bytes
from train.paths import local_path

TOKENS_PER_CALL = 32


@dataclasses.dataclass(frozen=True)
class Command:
    """Continues a prompt: reads it in one chunk, then samples token by token with a state of constant size."""

    workdir: str | None = None
    """Directory of a run."""
    pretrained: str | None = None
    """Directory of a published checkpoint (config.json, safetensors, tokenizer.json), instead of a run."""
    adapter: str | None = None
    """File of an adapter, which a run that trained one has as adapter.npz, for the same model."""
    prompt: str = ""
    """Text to continue, at the start of a document. If it is empty, the first sampled token starts the document."""
    tokens: int = 400
    """Maximal number of tokens to sample: bytes, or those of the tokenizer. A token that closes a document ends it."""
    temperature: float = 0.8
    """Divisor of the logits; 0 takes the most likely token."""
    top_p: float = 0.95
    """Probability of the nucleus: tokens are sampled from the smallest set that reaches it."""
    seed: int = 0
    """Seed of the sampling."""
    step: int | None = None
    """Step of the run's checkpoint to use; None: the newest."""

    def __post_init__(self):
        one_source(self.workdir, self.pretrained, self.step)
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")


def main(arguments: list[str]) -> int:
    command = with_local_paths(tyro.cli(Command, args=arguments, prog="python -m eval generate"))
    run = None if command.pretrained is not None else open_run(command.workdir, command.step)
    vocabulary = Tokenizer(command.pretrained) if run is None else run.config.data.vocabulary
    prompt_tokens = vocabulary.prompt(command.prompt)
    prompt = jnp.asarray(prompt_tokens)[None]
    length = prompt.shape[1] + command.tokens
    if run is not None:
        model, (params, before), source = run.model, run.materialised, f"step {run.step}"
        check_length(model.config, length)
    else:
        model, params = pretrained.load(command.pretrained, max_length=length)
        params, before, source = params["params"], None, command.pretrained
    if command.adapter is not None:
        params, before = with_adapter(command.adapter, model.config, params, before)
        source = f"{source} with {command.adapter}"
    params = {"params": params}
    vocabulary.check(model.config.vocab_size)
    # Compilation is not timed: users wait for it once, but for every token.
    compiled_prefill = prefill.lower(model, params, prompt, before).compile()
    jax.block_until_ready(compiled_prefill(params, prompt, before))  # the first call includes the set-up of the program
    start = time.monotonic()
    logits, state = jax.block_until_ready(compiled_prefill(params, prompt, before))
    prefill_seconds = time.monotonic() - start

    allowed = jnp.asarray(drawable(vocabulary, model.config.vocab_size))
    sampling = (jnp.float32(command.temperature), jnp.float32(command.top_p), allowed)
    key = jax.random.key(command.seed)
    arguments = (params, logits, state, key)
    compiled = generate.lower(model, *arguments, TOKENS_PER_CALL, *sampling).compile()
    decode = vocabulary.decoder(prompt_tokens)
    sys.stdout.write(command.prompt)
    start, left, calls = time.monotonic(), command.tokens, 0
    while left > 0:
        tokens, logits, state, key = compiled(params, logits, state, key, *sampling)
        drawn, calls = tokens[0, :left].tolist(), calls + 1
        until_end = list(itertools.takewhile(lambda token: token not in vocabulary.ends, drawn))
        left = left - len(drawn) if len(until_end) == len(drawn) else 0
        sys.stdout.write(decode(until_end, left == 0))
        sys.stdout.flush()
    decode_seconds = time.monotonic() - start
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print(
        f"\n\n[{source}; prefill {prompt.shape[1] / prefill_seconds:,.0f} tokens/s, "
        f"decode {calls * TOKENS_PER_CALL / decode_seconds:,.0f} tokens/s, state {size:,} bytes]"
    )
    return 0


def with_adapter(path: str, config: LanguageModelConfig, params: Params, before: State | None) -> Materialised:
    """Return the parameters and the state before the prompt, with the adapter in a file.

    Raises:
      ValueError: the file is no adapter, or one of another model; the model has a start state of its own.
    """
    adapter, own = adapters.load(local_path("adapter", path))
    wanted = {name: str(each.shape) for name, each in adapter.declare(config, parameters(config)).items()}
    differences = misfits({name: str(leaf.shape) for name, leaf in flat(own).items()}, wanted)
    if differences:
        listing = "\n  ".join(differences)
        raise ValueError(f"the adapter {path} is not one of this model:\n  {listing}")
    params, start = adapter.materialise(config, params, own)
    if start is not None and before is not None:
        raise ValueError(f"{path} and the run each have a state before the prompt; only one can be used")
    return Materialised(params, before if start is None else start)


def drawable(vocabulary: Bytes | Tokenizer, vocab_size: int) -> np.ndarray:
    """Return the mask of tokens that may be sampled, bool (vocab_size,): the tokens that the vocabulary has."""
    mask = np.zeros(vocab_size, bool)
    mask[list(vocabulary.ids)] = True
    return mask


def check_length(config, length: int) -> None:
    """Raise ValueError if `length` tokens exceed the cache of an attention layer without a window."""
    if config.context is not None and length > config.context:
        raise ValueError(
            f"prompt and tokens are {length} together, but this model's attention has no window and a cache of "
            f"{config.context} tokens (max_length); ask for fewer"
        )
