"""Provides `python -m eval generate`: text from a run or a published checkpoint, written while it is sampled."""

import dataclasses
import functools
import itertools
import json
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from eval.run import one_source, with_local_paths
from eval.source import Source, open_source, vocabulary_of
from recurrax.models import generate, prefill
from train.paths import local_path

TOKENS_PER_CALL = 32
ROWS_PER_CALL = 16


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
    prompts: str | None = None
    """File with a prompt per line. Each is continued and written as a JSON object with `prompt` and `text`."""
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
        if self.prompts is not None and self.prompt:
            raise ValueError("give either --prompt or --prompts")
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
    where = command.workdir, command.pretrained
    texts = [command.prompt] if command.prompts is None else prompts_in(command.prompts)
    vocabulary = vocabulary_of(*where)
    prompts = [vocabulary.prompt(text) for text in texts]
    source = open_source(*where, command.step, command.adapter, max(map(len, prompts)) + command.tokens)
    sampler = Sampler(command, source)
    if command.prompts is None:
        print(f"\n\n[{source.name}; {sampler.stream(command.prompt, prompts[0])}]")
        return 0
    for text, continuation in zip(texts, sampler.continuations(prompts), strict=True):
        print(json.dumps({"prompt": text, "text": continuation}, ensure_ascii=False), flush=True)
    return 0


def prompts_in(path: str) -> list[str]:
    """Return the lines of a file. Raises ValueError if there are none, or they are not UTF-8."""
    file = local_path("prompts", path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts {path} cannot be read: {error}") from error
    if not lines:
        raise ValueError(f"--prompts {path} has no line")
    return lines


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Continues prompts."""

    command: Command
    source: Source

    def draw(self, logits, state, key, count: int):
        """Draw `count` tokens for each row."""
        command, source = self.command, self.source
        sampling = (command.temperature, command.top_p, source.drawable, sorted(source.vocabulary.ends))
        return generate(source.model, source.params, logits, state, key, count, *sampling)

    def stream(self, text: str, prompt: np.ndarray) -> str:
        """Write the prompt and its continuation while it is sampled; return the speeds and the size of the state."""
        command, source, key = self.command, self.source, jax.random.key(self.command.seed)
        read = functools.partial(prefill, source.model, source.params, jnp.asarray(prompt)[None], source.before)
        logits, state = jax.block_until_ready(read())  # compiles: users wait for it once, but for every token
        jax.block_until_ready(self.draw(logits, state, key, TOKENS_PER_CALL))
        start = time.monotonic()
        logits, state = jax.block_until_ready(read())
        prefill_seconds = time.monotonic() - start
        decode = self.source.vocabulary.decoder(prompt)
        sys.stdout.write(text)
        start, left, drawn = time.monotonic(), command.tokens, 0
        while left > 0:
            tokens, logits, state, key = self.draw(logits, state, key, min(TOKENS_PER_CALL, left))
            until_end = self.until_end(tokens[0].tolist())
            drawn += tokens.shape[1]
            left = left - tokens.shape[1] if len(until_end) == tokens.shape[1] else 0
            sys.stdout.write(decode(until_end, left == 0))
            sys.stdout.flush()
        seconds, size = time.monotonic() - start, sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        return (
            f"prefill {len(prompt) / prefill_seconds:,.0f} tokens/s, decode {drawn / seconds:,.0f} tokens/s, "
            f"state {size:,} bytes"
        )

    def continuations(self, prompts: list[np.ndarray]) -> Iterator[str]:
        """Yield the continuation of each prompt; ROWS_PER_CALL of them are sampled together."""
        key = jax.random.key(self.command.seed)
        for first in range(0, len(prompts), ROWS_PER_CALL):
            rows = prompts[first : first + ROWS_PER_CALL]
            # All batches have one number of rows, so that the last one is not compiled anew.
            filled = rows + [rows[-1]] * (min(ROWS_PER_CALL, len(prompts)) - len(rows))
            tokens, *_ = self.draw(*self.source.read(filled), jax.random.fold_in(key, first), self.command.tokens)
            for prompt, row in zip(rows, tokens.tolist(), strict=False):
                yield self.source.vocabulary.decoder(prompt)(self.until_end(row), True)

    def until_end(self, tokens: list[int]) -> list[int]:
        """Return the tokens before one that closes a document."""
        return list(itertools.takewhile(lambda token: token not in self.source.vocabulary.ends, tokens))
