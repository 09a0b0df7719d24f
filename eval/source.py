"""Opens a model that produces text: a run or a published checkpoint, with an adapter if one is given."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eval.run import open_run, run_config
from recurrax import adapters, pretrained
from recurrax.adapters import Materialised
from recurrax.models import LanguageModel, LanguageModelConfig, batch_prompts, join_rows, parameters, prefill
from recurrax.parameters import flat
from recurrax.pretrained import Tokenizer
from recurrax.types import Params, State
from train.checkpoint_check import misfits
from train.data import Bytes
from train.data.tokens import tokenizer_in
from train.paths import local_path


@dataclasses.dataclass(frozen=True)
class Source:
    """A model and its vocabulary."""

    name: str
    model: LanguageModel
    params: Params
    """The variables of `model.apply`."""
    before: State | None
    """The state before a document, of one row; None: the model's own."""
    vocabulary: Bytes | Tokenizer

    @property
    def drawable(self) -> np.ndarray:
        """The mask of the tokens that the vocabulary has, which may be sampled, bool (vocab_size,)."""
        return drawable(self.vocabulary, self.model.config.vocab_size)

    def read(self, rows: Sequence[np.ndarray]) -> tuple[jax.Array, State]:
        """Return the logits after each prompt, (B, vocab_size), and the states of all."""
        if self.before is None:
            prompts, lengths = batch_prompts(rows, self.model.config.context)
            return prefill(self.model, self.params, prompts, lengths=lengths)
        found = [prefill(self.model, self.params, row[None], self.before) for row in rows]
        return jnp.concatenate([logits for logits, _ in found]), join_rows([state for _, state in found])


def vocabulary_of(workdir: str | None, published: str | None) -> Bytes | Tokenizer:
    """Return what encodes the text of the model. Raises ValueError as `open_source`."""
    return tokenizer_in(published) if published is not None else run_config(workdir).data.vocabulary


def drawable(vocabulary: Bytes | Tokenizer, vocab_size: int) -> np.ndarray:
    """Return the mask of tokens that may be sampled, bool (vocab_size,): the tokens that the vocabulary has."""
    mask = np.zeros(vocab_size, bool)
    mask[list(vocabulary.ids)] = True
    return mask


def open_source(
    workdir: str | None, published: str | None, step: int | None, adapter: str | None, length: int
) -> Source:
    """Return the model of a run or, if `published` is given, of a published checkpoint, for streams of `length` tokens.

    Raises:
      ValueError: there is no such model or adapter; they or the tokenizer do not belong together; attention without a
        window has a smaller cache.
    """
    if published is None:
        run = open_run(workdir, step)
        vocabulary, model, name = run.config.data.vocabulary, run.model, f"step {run.step}"
        params, before = run.materialised
        check_length(model.config, length)
    else:
        vocabulary = tokenizer_in(published)
        model, variables = pretrained.load(published, max_length=length)
        params, before, name = variables["params"], None, published
    vocabulary.check(model.config.vocab_size)
    if adapter is not None:
        params, before = with_adapter(adapter, model.config, params, before)
        name = f"{name} with {adapter}"
    return Source(name, model, {"params": params}, before, vocabulary)


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


def check_length(config, length: int) -> None:
    """Raise ValueError if `length` tokens exceed the cache of an attention layer without a window."""
    if config.context is not None and length > config.context:
        raise ValueError(
            f"prompt and tokens are {length} together, but this model's attention has no window and a cache of "
            f"{config.context} tokens (max_length); ask for fewer"
        )
