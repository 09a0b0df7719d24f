"""Provides `python -m eval harness`: EleutherAI's lm-evaluation-harness on a run or a published checkpoint.

The harness asks for log-likelihoods of texts and for continuations; `Scorer` answers, and knows nothing of the harness.
Texts are read in chunks with a carried state, so one program serves all lengths and no text is cut.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from eval.run import one_source, with_local_paths
from eval.source import Source, check_length, open_source
from recurrax import checks
from recurrax.models import generate, repeat_rows
from train.paths import local_path

CHUNK = 256
"""Tokens per call of the model."""
STOP_EVERY = 32
"""Tokens that are sampled between two looks for a stop string."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Scores a model on tasks of the harness, which needs the extra `lm_eval`."""

    tasks: tuple[str, ...]
    """Names of tasks."""
    workdir: str | None = None
    """Directory of a run."""
    pretrained: str | None = None
    """Directory of a published checkpoint (config.json, safetensors, tokenizer.json), instead of a run."""
    step: int | None = None
    """Step of the run's checkpoint to use; None: the newest."""
    adapter: str | None = None
    """File of an adapter for the model."""
    include_path: str | None = None
    """Folder of further task files."""
    num_fewshot: int | None = None
    """Examples before each question; None: as the task says."""
    limit: int | None = None
    """Number of questions of each task; None: all."""
    batch_size: int = 8
    """Texts that are read together."""
    max_length: int = 4096
    """Cache size in tokens of a published model's attention without a window; a run has that of its config."""
    output: str | None = None
    """JSON file for the results; None: they are only printed."""

    def __post_init__(self):
        one_source(self.workdir, self.pretrained, self.step)
        checks.positive(self, "limit", "batch_size", "max_length")


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Answers what a harness asks of a model."""

    source: Source
    batch_size: int = 8

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return log p(continuation | context) in nats, and whether each of its tokens is the likeliest."""
        rows, starts = [], []
        for context, continuation in pairs:
            # The space between two words belongs to the second one.
            shorter = context.rstrip()
            continuation, context = context[len(shorter) :] + continuation, shorter
            before = self.source.vocabulary.prompt(context)
            whole = self.source.vocabulary.prompt(context + continuation)
            if not context:  # where the tokenizer puts nothing before a text, the start token is what it follows
                whole = whole if whole[0] == before[0] else np.concatenate([before, whole])
            rows.append(whole)
            starts.append(min(len(before), len(whole) - 1))
        found = self._read(rows)
        return [
            (float(logs[start - 1 :].sum()), bool(greedy[start - 1 :].all()))
            for (logs, greedy), start in zip(found, starts, strict=True)
        ]

    def documents(self, texts: Sequence[str]) -> list[float]:
        """Return log p of whole texts in nats, each from its start."""
        return [total for total, _ in self.likelihoods([("", text) for text in texts])]

    def continuations(self, prompts: Sequence[str], until: Sequence[str], count: int, temperature: float = 0.0):
        """Return up to `count` tokens of text after each prompt, up to the first of the strings `until`."""
        found = []
        for first in range(0, len(prompts), self.batch_size):
            found += self._continue(prompts[first : first + self.batch_size], until, count, temperature)
        return found

    def _continue(self, prompts, until, count, temperature):
        source, vocabulary = self.source, self.source.vocabulary
        rows = [vocabulary.prompt(prompt) for prompt in prompts]
        logits, state = source.read(rows)
        allowed, ends = source.drawable, sorted(vocabulary.ends)
        key, tokens, texts = jax.random.key(0), np.zeros((len(rows), 0), np.int32), [None] * len(rows)
        while tokens.shape[1] < count and None in texts:
            step = min(STOP_EVERY, count - tokens.shape[1])
            drawn, logits, state, key = generate(
                *(source.model, source.params, logits, state, key, step, temperature, 1.0, allowed, ends)
            )
            tokens = np.concatenate([tokens, drawn], axis=1)
            last = tokens.shape[1] >= count
            texts = [
                text if text is not None else _stopped(vocabulary, row, own, until, last)
                for text, row, own in zip(texts, rows, tokens.tolist(), strict=True)
            ]
        return texts

    def _read(self, rows: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, for each token of a row but the first, its log-probability and whether it is the likeliest.

        Raises:
          ValueError: a row is longer than the cache of attention without a window, which would forget its beginning.
        """
        check_length(self.source.model.config, max(map(len, rows)))
        found: list = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))  # rows of one batch are about equally long
        for first in range(0, len(order), self.batch_size):
            chosen = order[first : first + self.batch_size]
            longest = -(-(len(rows[chosen[0]]) - 1) // CHUNK) * CHUNK
            tokens = np.zeros((self.batch_size, longest + 1), np.int32)
            for row, i in zip(tokens, chosen, strict=False):
                row[: len(rows[i])] = rows[i]
            logs, greedy = zip(*self._chunks(tokens), strict=True)
            logs, greedy = np.concatenate(logs, axis=1), np.concatenate(greedy, axis=1)
            for row, i in enumerate(chosen):
                found[i] = logs[row, : len(rows[i]) - 1], greedy[row, : len(rows[i]) - 1]
        return found

    def _chunks(self, tokens: np.ndarray):
        """Yield log-probabilities and hits of the tokens but the first, CHUNK at a time."""
        source = self.source
        before = source.before or source.model.init_state(1)
        state = repeat_rows(before, len(tokens))
        for begin in range(0, tokens.shape[1] - 1, CHUNK):
            part = jnp.asarray(tokens[:, begin : begin + CHUNK + 1])
            logs, greedy, state = _scores(source.model, source.params, part, state)
            yield np.asarray(logs, np.float64), np.asarray(greedy)


@functools.partial(jax.jit, static_argnums=0)
def _scores(model, params, tokens, state):
    logits, state = model.apply(params, tokens[:, :-1], state)
    targets = tokens[:, 1:]
    logs = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
    return logs, jnp.argmax(logits, axis=-1) == targets, state


def _stopped(vocabulary, prompt, tokens: list[int], until: Sequence[str], last: bool) -> str | None:
    """Return the text of the tokens up to an end token or one of the strings; None: it goes on."""
    ended = next((i for i, token in enumerate(tokens) if token in vocabulary.ends), None)
    text = vocabulary.decoder(prompt)(tokens[:ended], True)
    stops = [text.index(stop) for stop in until if stop and stop in text]
    if stops:
        return text[: min(stops)]
    return text if last or ended is not None else None


def harness_model(scorer: Scorer):
    """Return the model of the harness that asks this scorer. Raises ImportError if the harness is not installed."""
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise ImportError("the harness is the package lm_eval: pip install 'recurrax[lm_eval]'") from error

    class Model(LM):
        def loglikelihood(self, requests):
            return scorer.likelihoods([request.args for request in requests])

        def loglikelihood_rolling(self, requests):
            return scorer.documents([request.args[0] for request in requests])

        def generate_until(self, requests):
            return generated(scorer, [request.args for request in requests])

    return Model()


def generated(scorer: Scorer, requests: Sequence[tuple[str, dict]]) -> list[str]:
    """Return the continuations that requests (context, options) ask for; those of equal options together."""
    groups: dict[tuple, list[int]] = {}
    for i, (_, options) in enumerate(requests):
        until = options.get("until") or ()
        until = (until,) if isinstance(until, str) else tuple(until)
        temperature = options.get("temperature", 0.0) if options.get("do_sample", False) else 0.0
        groups.setdefault((until, options.get("max_gen_toks", 256), temperature), []).append(i)
    found: list[str] = [""] * len(requests)
    for options, members in groups.items():
        texts = scorer.continuations([requests[i][0] for i in members], *options)
        for i, text in zip(members, texts, strict=True):
            found[i] = text
    return found


def main(arguments: list[str]) -> int:
    command = with_local_paths(tyro.cli(Command, args=arguments, prog="python -m eval harness"))
    length = 1 if command.pretrained is None else command.max_length
    source = open_source(command.workdir, command.pretrained, command.step, command.adapter, length)
    model = harness_model(Scorer(source, command.batch_size))
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=None if command.include_path is None else str(local_path("include_path", command.include_path))
    )
    found = simple_evaluate(
        model=model,
        tasks=list(command.tasks),
        task_manager=manager,
        num_fewshot=command.num_fewshot,
        limit=command.limit,
    )
    for task, metrics in found["results"].items():
        for name, value in metrics.items():
            if isinstance(value, float):
                print(f"{task}  {name.removesuffix(',none')}  {value:.4f}")
    if command.output is not None:
        text = json.dumps({"source": source.name, "results": found["results"]}, indent=2, default=str)
        local_path("output", command.output).write_text(text)
    return 0
