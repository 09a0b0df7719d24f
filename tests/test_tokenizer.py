"""Tokenizers of published checkpoints: the whole text, the same tokens every time, and the right special tokens."""

import json

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Published

from eval.perplexity import lost_text
from eval.source import drawable
from recurrax.pretrained import Tokenizer
from train.data import DOCUMENT_START, Bytes, Rows, document_lengths, evaluation_batches
from train.data.tokens import tokenized

NAMES = ["<s>", "</s>", "<stop>", "a", "b", "c", "ab", " "]
VOCABULARY = {name: number for number, name in enumerate(NAMES)}


class Texts:
    """Documents in memory."""

    name = "texts"

    def __init__(self, *texts):
        self.texts = [np.frombuffer(text, np.uint8) for text in texts]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return self.texts[index]

    def lengths(self):
        return np.array([len(text) for text in self.texts])

    def identity(self):
        return {"texts": [text.tobytes().hex() for text in self.texts]}

    def stamp(self):
        return ""


def published(model=None, special=("<s>", "</s>")):
    """A tokenizer of single letters and "ab" that drops letters it does not have."""
    tokenizer = Published(model or models.BPE(VOCABULARY, [("a", "b")]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


@pytest.fixture
def saved(tmp_path):
    """saved(tokenizer, generation_config=None, **config): the tokenizer read back from a checkpoint's directory."""

    def save(tokenizer, generation_config=None, **config):
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1, **config}))
        if generation_config is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation_config))
        return Tokenizer(str(tmp_path))

    return save


def test_stored_truncation_and_padding_are_off(saved):
    tokenizer = published()
    tokenizer.enable_truncation(max_length=4)
    tokenizer.enable_padding(length=16, pad_id=0, pad_token="<s>")
    found = saved(tokenizer)
    assert found.encode("abc" * 50).tolist() == [6, 5] * 50
    assert found.prompt("c").tolist() == [5]


def test_stored_dropout_is_off(saved):
    tokenizer = saved(published(models.BPE(VOCABULARY, [("a", "b")], dropout=0.5)))
    for _ in range(5):
        assert tokenizer.encode("ab" * 20).tolist() == [6] * 20


def test_prompt_keeps_what_stands_before_it_alone(saved):
    """A template `<s> A </s>` would end the text before it is continued; texts of documents get neither."""
    tokenizer = published()
    special = [("<s>", 0), ("</s>", 1)]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=special)
    found = saved(tokenizer)
    assert found.prompt("cab").tolist() == [0, 5, 6]
    assert found.prompt("c</s>").tolist() == [0, 5, 1]  # as typed
    assert found.prompt("").tolist() == [0]
    assert found.encode("cab").tolist() == [5, 6]


def test_prompt_without_tokens_is_refused(saved):
    found = saved(published())
    for prompt in ("é", "!?"):
        with pytest.raises(ValueError, match=f"makes no token of the prompt {prompt!r}".replace("?", r"\?")):
            found.prompt(prompt)
    with pytest.raises(ValueError, match="the prompt is not UTF-8"):
        found.prompt("a\udcff")


def test_bytes_of_a_prompt_need_not_be_utf8():
    """A command line's bytes that are not UTF-8 come as lone surrogates, and a byte model reads the bytes."""
    prompt = Bytes().prompt("é\udcff\udcc3")
    assert prompt.tolist() == [DOCUMENT_START, 0xC3, 0xA9, 0xFF, 0xC3]
    assert Bytes().decoder(prompt)([0xA9, 0x61], True) == "éa"


@pytest.mark.parametrize(
    ("config", "generation_config", "start", "ends"),
    [
        ({}, None, 0, {1}),
        ({"eos_token_id": [1, 2]}, None, 0, {1, 2}),
        ({"eos_token_id": 1}, {"eos_token_id": [1, 2]}, 0, {1, 2}),
        ({"eos_token_id": 1}, {"eos_token_id": 2}, 0, {1, 2}),
        ({"eos_token_id": None}, {"eos_token_id": [2, 1]}, 0, {1, 2}),
        ({"bos_token_id": None, "eos_token_id": [2, 1]}, {}, 2, {1, 2}),
        ({"bos_token_id": None, "eos_token_id": None}, {"bos_token_id": 2}, 2, set()),
    ],
)
def test_every_named_end_token_ends(saved, config, generation_config, start, ends):
    found = saved(published(), generation_config, **config)
    assert (found.start, found.ends) == (start, ends)


@pytest.mark.parametrize("value", [8, -1, [1, 8], "1", True, [None]])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_end_tokens_beyond_the_vocabulary_are_refused(saved, file, value):
    fields = {"eos_token_id": value}
    with pytest.raises(ValueError, match=rf"{file}: eos_token_id .* is not the id of a token of tokenizer.json"):
        saved(published(), *([fields] if file == "generation_config.json" else []), **fields if file[0] == "c" else {})


def test_damaged_tokenizer_files_are_named(saved, tmp_path):
    saved(published())
    for content, message in (("{", "is not JSON"), ("[]", "must hold a JSON object, got list"), ("{}", "cannot read")):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match=f"tokenizer.json.*{message}|{message}.*tokenizer.json"):
            Tokenizer(str(tmp_path))


def test_vocabulary_with_gaps_is_drawable(saved):
    gaps = {"<s>": 0, "</s>": 1, "a": 5}
    found = saved(published(models.WordLevel(gaps, unk_token="a")))
    assert drawable(found, 8).tolist() == [True, True, False, False, False, True, False, False]
    found.check(6)
    with pytest.raises(ValueError, match="ids reach 5, but the model's vocabulary has 5 tokens, 0 to 4"):
        found.check(5)


@pytest.fixture
def documents_of(tmp_path):
    """documents_of(tokenizer, texts, closed=False): documents of tokens."""
    return lambda tokenizer, *texts, closed=False: tokenized(Texts(*texts), tokenizer, tmp_path, closed)


def test_lost_characters_are_said(saved, documents_of):
    """Letters that the tokenizer does not have, a normalizer, and bytes that are not UTF-8."""
    tokenizer = saved(published())
    assert lost_text(documents_of(tokenizer, b"abc", b"")) == []
    documents = documents_of(tokenizer, b"abc", b"aXb", b"a\xffb")
    assert (documents.num_changed, documents.num_undecodable) == (1, 1)
    bytes_line, tokens_line = lost_text(documents)
    assert bytes_line.startswith("1 of 3 documents are not UTF-8")
    assert tokens_line.startswith("the tokens of 1 of 3 documents spell another text")
    lower = published()
    lower.normalizer = normalizers.Lowercase()
    assert documents_of(saved(lower), b"ABC", b"abc").num_changed == 1
    eating = published()
    eating.add_tokens([AddedToken("c", lstrip=True)])
    assert documents_of(saved(eating), b"a   c", b"ac").num_changed == 1


def test_start_token_in_a_text_is_no_border(saved, documents_of):
    """`</s>` is an ordinary token here: in a text it is predicted like any other, and no state is reset."""
    tokenizer = published(special=("<s>",))
    tokenizer.add_tokens([AddedToken("</s>", special=False)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    documents = documents_of(saved(tokenizer, bos_token_id=None), b"a</s>b", b"c")
    assert documents.start == 1
    assert [documents[i].tolist() for i in range(2)] == [[3, 1, 4], [5]]
    assert document_lengths(documents).tolist() == [3, 1]
    (row,) = Rows(documents, 7).take([0])
    assert row["inputs"].tolist() == [1, 3, 1, 4, 1, 5, 1]
    assert row["targets"].tolist() == [3, 1, 4, 1, 5, 1, 1]
    assert row["reset"].tolist() == [True, False, False, False, True, False, True]
    assert row["weights"].tolist() == [1, 1, 1, 0, 1, 0, 0]
    batches = list(evaluation_batches(documents, 2, 1))
    assert sum(batch["weights"].sum() for batch in batches) == 4
    assert sum(batch["reset"].sum() for batch in batches) == 2
