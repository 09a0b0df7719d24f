"""`eval generate` and `eval perplexity` of a published checkpoint, with a tokenizer of its own."""

import json
import math
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from eval.__main__ import main
from recurrax import pretrained
from recurrax.pretrained import Tokenizer

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "pretrained" / "mamba"
START = 0
LETTERS = "abcdefghijklmnopqrstuvwxyz .,'\n"
TEXTS = ["a short text,\nof two lines.", "another one", "b", "it's <s> the end, so far. " * 3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The fixture's model with one token per letter; <s> both opens and closes a text."""
    folder = pathlib.Path(shutil.copytree(FIXTURE, tmp_path_factory.mktemp("published") / "mamba"))
    vocabulary = {"<s>": START, "<unk>": 1, **{letter: i + 2 for i, letter in enumerate(LETTERS)}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def model(checkpoint):
    model, params = pretrained.load(checkpoint)
    return jax.jit(lambda tokens: model.apply(params, tokens)[0])


def encoded(text):
    return [LETTERS.index(letter) + 2 if letter in LETTERS else 1 for letter in text]


def test_perplexity_reads_every_text_from_its_start(checkpoint, model, tmp_path, capsys):
    """The perplexity is that of every text, read from its start."""
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i}.txt").write_text(text)
    words = ["--pretrained", str(checkpoint), "--path", str(tmp_path), "--split", "train"]
    words += ["--data-dir", str(tmp_path / "data")]
    assert main(["perplexity", *words, "--sequence-length", "9", "--batch-size", "2"]) == 0
    out = capsys.readouterr().out
    # One of the four is the validation split.
    counts = re.search(r"mamba: (\d+) tokens, (\d+) bytes", out)
    size = int(counts[2])
    (texts,) = [[text for text in TEXTS if text != left] for left in TEXTS if sum(map(len, TEXTS)) - len(left) == size]
    total = count = 0
    for text in texts:
        tokens = jnp.asarray([[START, *encoded(text)]], jnp.int32)
        logits = np.asarray(model(tokens)[0, :-1], np.float64)
        total += (np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(text)), encoded(text)]).sum()
        count += len(text)
    assert int(counts[1]) == count == size
    assert f"loss {total / count:.4f} nats per token, perplexity {math.exp(total / count):.4f}" in out
    assert f"{total / size / math.log(2):.4f} bits per byte" in out
    assert ("1 of 3 documents spell another text" in out) == ("<" in "".join(texts))


def likeliest(folder, capsys):
    """What `python -m eval generate` adds to a prompt, without chance."""
    words = ["--pretrained", str(folder), "--prompt", "so it ", "--temperature", "0", "--tokens", "40"]
    assert main(["generate", *words]) == 0
    return capsys.readouterr().out.rpartition("\n\n[")[0].removeprefix("so it ")


def test_generate_is_greedy_and_stops_at_eos(checkpoint, model, capsys):
    """Generation appends the likeliest token and stops at the end token."""
    words = ["--pretrained", str(checkpoint), "--prompt", "so it ", "--temperature", "0", "--tokens", "40"]
    assert main(["generate", *words]) == 0
    text, _, about = capsys.readouterr().out.rpartition("\n\n[")
    tokens, size = encoded("so it "), len(LETTERS) + 2
    while len(tokens) < 46:
        padded = jnp.asarray([tokens + [0] * (46 - len(tokens))], jnp.int32)
        token = int(np.argmax(model(padded)[0, len(tokens) - 1, :size]))
        if token == START:
            break
        tokens.append(token)
    assert text == "so it " + "".join(LETTERS[token - 2] for token in tokens[6:] if token > 1)
    assert about.startswith(f"{checkpoint}; prefill")


def test_empty_prompt_is_the_start_token(checkpoint):
    """An empty prompt is the start token, and names of special tokens in a text are text."""
    tokenizer = Tokenizer(str(checkpoint))
    assert tokenizer.prompt("").tolist() == [START]
    assert tokenizer.encode("a<s>b").tolist() == encoded("a<s>b")
    assert tokenizer.prompt("a<s>b").tolist() == [2, START, 3]
    assert (tokenizer.start, tokenizer.ends, tokenizer.ids) == (0, {0}, set(range(33)))


def test_generate_ends_at_every_end_token(checkpoint, tmp_path, capsys):
    """The last of three end tokens, a letter of the likeliest text, ends it before its first occurrence."""
    whole = likeliest(checkpoint, capsys)
    end = whole[3]
    several = pathlib.Path(shutil.copytree(checkpoint, tmp_path / "several"))
    (several / "generation_config.json").write_text(json.dumps({"eos_token_id": [START, 1, *encoded(end)]}))
    assert likeliest(several, capsys) == whole[: whole.index(end)]


def test_generated_words_keep_their_first_space(checkpoint, tmp_path, capsys):
    """A decoder with a space before every token but the first of a text; the first one is in the prompt."""
    words = pathlib.Path(shutil.copytree(checkpoint, tmp_path / "words"))
    tokenizer = tokenizers.Tokenizer.from_file(str(words / "tokenizer.json"))
    tokenizer.decoder = tokenizers.decoders.WordPiece(cleanup=False)
    tokenizer.save(str(words / "tokenizer.json"))
    assert likeliest(words, capsys) == "".join(f" {letter}" for letter in likeliest(checkpoint, capsys))


def test_tokenizer_of_a_larger_vocabulary_is_refused(checkpoint, tmp_path, capsys):
    larger = pathlib.Path(shutil.copytree(checkpoint, tmp_path / "larger"))
    size = json.loads((larger / "config.json").read_text())["vocab_size"]
    tokenizer = tokenizers.Tokenizer.from_file(str(larger / "tokenizer.json"))
    tokenizer.add_tokens([f"<{i}>" for i in range(size)])
    tokenizer.save(str(larger / "tokenizer.json"))
    largest = tokenizer.get_vocab_size() - 1
    for command in ("generate", "perplexity"):
        with pytest.raises(SystemExit, match="2"):
            main([command, "--pretrained", str(larger)])
        expected = f"error: the tokenizer's ids reach {largest}, but the model's vocabulary has {size} tokens"
        assert expected in capsys.readouterr().err


def test_what_is_missing_is_said(checkpoint, tmp_path, capsys):
    for words, message in (
        ([], "give either --workdir or --pretrained, got None and None"),
        (["--workdir", "a", "--pretrained", "b"], "give either --workdir or --pretrained, got a and b"),
        (
            ["--pretrained", "b", "--step", "3"],
            "--step 3 is a checkpoint of a run; a published checkpoint has no steps",
        ),
        (["--pretrained", str(FIXTURE)], "has no tokenizer.json; text cannot be read or written without one"),
        (["--pretrained", str(tmp_path / "none")], "has no tokenizer.json"),
    ):
        for command in ("generate", "perplexity"):
            with pytest.raises(SystemExit, match="2"):
                main([command, *words])
            said = re.sub(r"[\s│─╭╮╰╯]+", " ", capsys.readouterr().err)  # the parser's messages come in a box
            assert message in said
    with pytest.raises(SystemExit, match="2"):
        main(["perplexity", "--pretrained", str(checkpoint), "--dataset", "a", "--path", "b"])
    assert "give either --dataset or --path, got a and b" in capsys.readouterr().err
    lost = pathlib.Path(shutil.copytree(checkpoint, tmp_path / "lost"))
    config = json.loads((lost / "config.json").read_text())
    (lost / "config.json").write_text(json.dumps({**config, "bos_token_id": None, "eos_token_id": None}))
    with pytest.raises(ValueError, match="names no token to open a document with: bos_token_id, eos_token_id"):
        Tokenizer(str(lost))
