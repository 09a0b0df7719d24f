"""Evaluation of a trained run: against NumPy, byte by byte, and against the draws that the library makes."""

import collections
import dataclasses
import functools
import json
import lzma
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import generate as generate_module
from eval import perplexity as perplexity_module
from eval import source
from eval.__main__ import main
from eval.run import open_run
from recurrax.mixers import RGLRU, Attention
from recurrax.models import generate, prefill
from runs import small, snapshot
from train import sharding
from train.data import DOCUMENT_START, VOCAB_SIZE, open_documents
from train.evaluate import make_evaluator
from train.loop import train
from train.sharding import MeshConfig
from train.workdir import Workdir

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """A run of a recurrence and an attention, with checkpoints 4 and 8."""
    path = tmp_path_factory.mktemp("trained") / "run"
    config = small(
        text, steps=8, model__num_layers=2, optimizer__schedule__warmup_steps=2, optimizer__learning_rate=2e-2
    )
    pattern = (RGLRU(num_heads=2), Attention(num_heads=2, num_kv_heads=1, window=8))
    train(dataclasses.replace(config, model=dataclasses.replace(config.model, pattern=pattern)), str(path))
    return path


@pytest.fixture(scope="module")
def folder(text, tmp_path_factory):
    """A few short documents: of one byte, of a row's length and one more, of many rows, not all of them ASCII."""
    path = tmp_path_factory.mktemp("documents")
    words = (text / "textwrap.txt").read_text()
    texts = ["x", words[:31], words[40:72], words[100:301], "é€😀 naïve\n", words[500:577], words[700:703]]
    for number, content in enumerate(texts):
        (path / f"{number}.txt").write_text(content)
    return path


@pytest.fixture(scope="module")
def documents(trained, folder):
    """The documents of the split `train`, the larger one, with all bytes of both splits accounted for."""
    config = dataclasses.replace(open_run(str(trained)).config.data, path=str(folder))
    splits = [open_documents(config, split) for split in ("train", "validation")]
    found = [bytes(documents[i]) for documents in splits for i in range(len(documents))]
    assert sorted(found) == sorted(path.read_bytes() for path in folder.iterdir())
    assert len(splits[0]) >= 5
    return splits[0]


def token_by_token(run, documents) -> tuple[float, int]:
    """Sum of -log p in nats and number of bytes: single tokens through the model, the rest in NumPy."""
    step = jax.jit(run.model.apply)
    total, count = 0.0, 0
    for i in range(len(documents)):
        state, token = run.model.init_state(1), DOCUMENT_START
        for byte in documents[i]:
            logits, state = step({"params": run.params}, jnp.full((1, 1), token, jnp.int32), state)
            logits = np.asarray(logits[0, 0], np.float64)
            total -= logits[byte] - np.log(np.exp(logits).sum())
            count, token = count + 1, int(byte)
    return total, count


def test_perplexity_is_that_of_reading_byte_by_byte(trained, folder, documents, capsys):
    run = open_run(str(trained))
    assert run.step == 8
    total, count = token_by_token(run, documents)
    assert count == sum(len(documents[i]) for i in range(len(documents)))
    loss = total / count

    mesh = sharding.make_mesh(MeshConfig(data=1))
    for lanes, length in ((1, 64), (3, 7), (8, 32)):
        found = make_evaluator(run.config.model, mesh, length, lanes)(run.params, documents)
        assert found.num_tokens == count
        assert found.loss == pytest.approx(loss, rel=2e-6), (lanes, length)

    before = snapshot(trained)
    with Workdir(trained):  # as while the run goes on
        words = ["--workdir", str(trained), "--path", str(folder), "--split", "train", "--batch_size", "8"]
        assert main(["perplexity", *words]) == 0
    out = capsys.readouterr().out
    assert f"step 8: {count:,} bytes in " in out
    assert f"loss {loss:.4f} nats per byte, perplexity {math.exp(loss):.4f}" in out
    assert f"  {loss / math.log(2):.4f} bits per byte\n" in out
    unigram, bigram, xz = simple_models([bytes(documents[i]) for i in range(len(documents))], folder)
    assert f"{unigram:.4f} by byte frequencies, {bigram:.4f} by byte pairs, {xz:.4f} by xz -9" in out
    after = snapshot(trained)
    before.pop(str(trained / ".lock"))
    after.pop(str(trained / ".lock"))
    assert after == before

    # Another checkpoint is another model.
    assert main(["perplexity", *words, "--step", "4"]) == 0
    out = capsys.readouterr().out
    assert f"step 4: {count:,} bytes in " in out
    earlier, _ = token_by_token(open_run(str(trained), 4), documents)
    assert f"loss {earlier / count:.4f} nats per byte" in out
    assert abs(earlier / count - loss) > 0.01


def simple_models(texts: list[bytes], folder) -> tuple[float, float, float]:
    """Bits per byte of the best unigram, the best bigram within documents, and xz, by their definitions."""
    unigrams = collections.Counter(byte for content in texts for byte in content)
    contexts = [(before, byte) for content in texts for before, byte in zip([None, *content], content, strict=False)]
    pairs, firsts = collections.Counter(contexts), collections.Counter(before for before, _ in contexts)
    count = len(contexts)
    unigram = -sum(n / count * math.log2(n / count) for n in unigrams.values())
    bigram = -sum(n / count * math.log2(n / firsts[before]) for (before, _), n in pairs.items())
    with lzma.open(folder / ".all.xz", "wb", preset=9) as file:
        file.write(b"".join(texts))
    size = (folder / ".all.xz").stat().st_size
    (folder / ".all.xz").unlink()
    return unigram, bigram, 8 * size / count


class Texts:
    """Documents in memory."""

    name = "texts"

    def __init__(self, *texts):
        self.texts = [np.frombuffer(content, np.uint8) for content in texts]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return self.texts[index]


def test_entropies_of_texts_worked_out_by_hand():
    # Four equally frequent bytes; each follows one certain other, only the first one of a document is a choice of two.
    unigram, bigram = perplexity_module.byte_entropies(Texts(b"abcd", b"cdab", b""))
    assert unigram == pytest.approx(2.0)
    # After a document's start a or c: 2 bits; after b: c, after d: a, each once; all else is certain.
    assert bigram == pytest.approx(2 / 8)
    assert perplexity_module.byte_entropies(Texts(b"aaaa")) == (0.0, 0.0)
    assert perplexity_module.xz_bits_per_byte(Texts(b"ab" * 500, b"ab" * 500)) == pytest.approx(
        8 * len(lzma.compress(b"ab" * 1000, preset=9)) / 2000
    )


# ---------------------------------------------------------------------------------------------------------- generation

PROMPT = "def f(é):\n"
BYTES = np.arange(VOCAB_SIZE) < DOCUMENT_START
"""The tokens that are bytes, of all that the model has."""


def generated(capsys, trained, *words) -> tuple[str, str]:
    """What `python -m eval generate` prints: the text, and the line about it."""
    assert main(["generate", "--workdir", str(trained), "--prompt", PROMPT, *map(str, words)]) == 0
    out, _, about = capsys.readouterr().out.rpartition("\n\n[")
    return out, about


@functools.cache
def started(path):
    run = open_run(path)
    prompt = jnp.asarray([[DOCUMENT_START, *PROMPT.encode()]], jnp.int32)
    return run, prompt, *prefill(run.model, {"params": run.params}, prompt)


def test_draws_are_those_of_the_seed(trained, capsys):
    """70 bytes, which is no multiple of the bytes per call, equal 70 drawn in one call and decoded in one go."""
    words = ["--tokens", 70, "--temperature", 1.5, "--top-p", 0.9, "--seed"]
    out, about = generated(capsys, trained, *words, 3)
    run, _, logits, state = started(str(trained))
    tokens, *_ = generate(run.model, {"params": run.params}, logits, state, jax.random.key(3), 70, 1.5, 0.9, BYTES)
    drawn = bytes(np.asarray(tokens[0]).tolist())
    assert len(drawn) == 70
    assert out == PROMPT + drawn.decode(errors="replace")
    assert re.fullmatch(r"step 8; prefill [\d,]+ tokens/s, decode [\d,]+ tokens/s, state [\d,]+ bytes\]\n", about)
    assert generated(capsys, trained, *words, 3)[0] == out
    assert generated(capsys, trained, *words, 4)[0] != out


def test_temperature_zero_is_greedy(trained, capsys):
    """At temperature 0 each byte is the likeliest after the whole sequence."""
    out, about = generated(capsys, trained, "--tokens", 40, "--temperature", 0, "--step", 4)
    assert about.startswith("step 4;")
    # Read off the whole sequence: each byte is the likeliest after those before it.
    run = open_run(str(trained), 4)
    _, prompt, *_ = started(str(trained))
    logits, state = prefill(run.model, {"params": run.params}, prompt)
    tokens, *_ = generate(run.model, {"params": run.params}, logits, state, jax.random.key(9), 40, 0.0, 1.0, BYTES)
    assert out == PROMPT + bytes(np.asarray(tokens[0]).tolist()).decode(errors="replace")
    sequence = jnp.concatenate([prompt, tokens], axis=1)
    whole, _ = jax.jit(run.model.apply)({"params": run.params}, sequence)
    likeliest = np.argmax(whole[0, prompt.shape[1] - 1 : -1, :DOCUMENT_START], axis=-1)
    np.testing.assert_array_equal(tokens[0], likeliest)


class Script:
    """Stands for the draws: calls after the first, which compiles, return the next bytes of a text."""

    def __init__(self, content: bytes):
        self.content, self.compiled = content, False

    def __call__(self, model, params, logits, state, key, count, *_):
        part, rest = self.content[:count], self.content[count:]
        if self.compiled:
            self.content = rest
        self.compiled = True
        return np.frombuffer(part, np.uint8)[None], logits, state, key


@pytest.mark.parametrize("missing", [0, 2])
def test_characters_across_calls_are_whole(trained, capsys, monkeypatch, missing):
    content = ("a" + "é€😀" * 12).encode()
    for shift in range(4):  # every place where a call may end within a character
        text = content[shift > 0 and 1 :] if shift < 2 else b"z" * shift + content
        monkeypatch.setattr(generate_module, "generate", Script(text))
        out, _ = generated(capsys, trained, "--tokens", len(text) - missing)
        assert out == PROMPT + text[: len(text) - missing].decode(errors="replace")
        assert ("\N{REPLACEMENT CHARACTER}" in out) == bool(missing)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--temperature", "-0.1"], "temperature must be at least 0, got -0.1"),
        (["--temperature", "nan"], "temperature must be at least 0, got nan"),
        (["--top-p", "0"], "top_p must be in (0, 1], got 0.0"),
        (["--top-p", "1.01"], "top_p must be in (0, 1], got 1.01"),
        (["--tokens", "0"], "tokens must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be in [0, 2**32), got -1"),
        (["--seed", str(2**32)], "seed must be in [0, 2**32), got 4294967296"),
        (["--tokens", "many"], "many"),
    ],
)
def test_refused(trained, capfd, monkeypatch, words, part):
    monkeypatch.setenv("COLUMNS", "250")
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--workdir", str(trained), *words])
    captured = capfd.readouterr()
    assert ended.value.code == 2
    assert part in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_more_than_the_cache_holds_is_refused(trained, capfd, monkeypatch):
    run = open_run(str(trained))
    model = dataclasses.replace(run.config.model, pattern=(RGLRU(num_heads=2), Attention(num_heads=2, max_length=32)))
    whole = dataclasses.replace(run, config=dataclasses.replace(run.config, model=model), params=None)
    monkeypatch.setattr(source, "open_run", lambda *_: whole)
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--workdir", str(trained), "--prompt", "x" * 11, "--tokens", "21"])
    assert ended.value.code == 2
    assert "prompt and tokens are 33 together" in (err := capfd.readouterr().err)
    assert "a cache of 32 tokens (max_length)" in err
    source.check_length(model, 32)
    source.check_length(run.config.model, 10**9)  # a window never runs out


def test_every_line_of_prompts_is_continued(trained, capsys, tmp_path):
    """Prompts of different lengths together, without chance: each text is that of its prompt alone."""
    lines = ["def f(é):", "a", "import numpy as", "x" * 40]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    words = ["--workdir", str(trained), "--tokens", "24", "--temperature", "0"]
    assert main(["generate", *words, "--prompts", str(tmp_path / "prompts.txt")]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["prompt"] for each in found] == lines
    for each in found:
        assert main(["generate", *words, "--prompt", each["prompt"]]) == 0
        assert capsys.readouterr().out.partition("\n\n[")[0] == each["prompt"] + each["text"]
    for bad, message in (("missing.txt", "cannot be read"), ("empty.txt", "has no line")):
        (tmp_path / "empty.txt").write_text("")
        with pytest.raises(SystemExit, match="2"):
            main(["generate", *words, "--prompts", str(tmp_path / bad)])
        assert message in capsys.readouterr().err
