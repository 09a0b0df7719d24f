"""python -m eval generate: text from a run, written as it is drawn."""

import codecs
import dataclasses
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from eval.run import open_run
from recurrax.mixers import Attention
from recurrax.models import generate, prefill
from train.data import DOCUMENT_START

TOKENS_PER_CALL = 32


@dataclasses.dataclass(frozen=True)
class Command:
    """Continues a prompt: the prompt in one chunk, then token by token with a state of constant size."""

    workdir: str
    """Directory of the run."""
    prompt: str = ""
    """Text to continue; a document starts with it."""
    tokens: int = 400
    """Bytes to draw."""
    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest byte."""
    top_p: float = 0.95
    """Draws from the smallest set of bytes that reaches this probability."""
    seed: int = 0
    """Of the draws."""
    step: int | None = None
    """Checkpoint to use; None is the newest."""

    def __post_init__(self):
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")


def main(arguments: list[str]) -> int:
    command = tyro.cli(Command, args=arguments, prog="python -m eval generate")
    run = open_run(command.workdir, command.step)
    prompt = np.frombuffer(command.prompt.encode(), np.uint8).astype(np.int32)
    prompt = jnp.asarray(np.concatenate([[DOCUMENT_START], prompt]))[None]
    check_length(run.config.model, prompt.shape[1] + command.tokens)

    params = {"params": run.params}
    # Compiled before they are timed: users wait for compilation once, for tokens always.
    compiled_prefill = prefill.lower(run.model, params, prompt).compile()
    jax.block_until_ready(compiled_prefill(params, prompt))  # the first call of a program also sets it up
    start = time.monotonic()
    logits, state = jax.block_until_ready(compiled_prefill(params, prompt))
    prefill_seconds = time.monotonic() - start

    sampling = (jnp.float32(command.temperature), jnp.float32(command.top_p), jnp.int32(DOCUMENT_START))
    key = jax.random.key(command.seed)
    arguments = (params, logits, state, key)
    compiled = generate.lower(run.model, *arguments, TOKENS_PER_CALL, *sampling).compile()
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    sys.stdout.write(command.prompt)
    start, left = time.monotonic(), command.tokens
    while left > 0:
        tokens, logits, state, key = compiled(params, logits, state, key, *sampling)
        text = bytes(np.asarray(tokens[0, :left]).tolist())
        left -= len(text)
        sys.stdout.write(decoder.decode(text, final=left <= 0))
        sys.stdout.flush()
    decode_seconds = time.monotonic() - start
    calls = -(-command.tokens // TOKENS_PER_CALL)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print(
        f"\n\n[step {run.step}; prefill {prompt.shape[1] / prefill_seconds:,.0f} tokens/s, "
        f"decode {calls * TOKENS_PER_CALL / decode_seconds:,.0f} tokens/s, state {size:,} bytes]"
    )
    return 0


def check_length(config, length: int) -> None:
    """Raises ValueError if attention without a window would have to forget the beginning."""
    for mixer in config.pattern:
        if isinstance(mixer, Attention) and mixer.window is None and length > mixer.max_length:
            raise ValueError(
                f"prompt and tokens are {length} together, but this model's attention has no window and a cache of "
                f"{mixer.max_length} tokens (max_length); ask for fewer"
            )
