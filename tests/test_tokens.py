"""Documents of a tokenizer's tokens: every byte counted once, made once, in parts of any size."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from recurrax.pretrained import Tokenizer
from test_tokenizer import Texts
from train.data import Rows, evaluation_batches, tokens
from train.data.tokens import tokenized

TEXTS = [b"a short text\nof two lines", b"", "äöü \N{SNOWMAN} \U0001f600 end".encode(), b"caf\xc3 \xff!", b"x" * 70]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A byte-level BPE, whose tokens divide characters, with a start and an end token."""
    folder = tmp_path_factory.mktemp("bpe")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
    )
    bpe.train_from_iterator(["a short text of two lines, and another one: äöü ☃"] * 3, trainer)
    bpe.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"bos_token_id": 0, "eos_token_id": 1}')
    return Tokenizer(folder)


@given(text=st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode(errors="replace")))
@settings(max_examples=100, deadline=None)
def test_bytes_of_tokens_sum_to_the_text(tokenizer, text):
    """Also where a character has several tokens or bytes are no characters."""
    (found,) = tokenizer.encode_bytes([text])
    assert found.num_bytes.sum() == len(text)
    assert (found.num_bytes >= 0).all()
    assert len(found.tokens) == len(found.num_bytes)
    try:
        assert found.is_same == (tokenizer.decode(found.tokens) == text.decode())
    except UnicodeDecodeError:
        assert not found.is_utf8


def test_files_hold_the_tokens_of_each_text(tokenizer, tmp_path, monkeypatch):
    """Whatever the size of records, shards and pieces; a piece ends with a line."""
    expected = [tokenizer.encode_bytes([text])[0] for text in TEXTS]
    for i, (record, shard, batch) in enumerate(((16384, 1 << 26, 1 << 22), (7, 30, 1))):
        monkeypatch.setattr(tokens, "RECORD_TOKENS", record)
        monkeypatch.setattr(tokens, "SHARD_BYTES", shard)
        monkeypatch.setattr(tokens, "BATCH_BYTES", batch)
        found = tokenized(Texts(*TEXTS), tokenizer, tmp_path / str(i), False)
        assert [found[k].tolist() for k in range(5)] == [each.tokens.tolist() for each in expected]
        assert found.lengths().tolist() == [len(each.tokens) for each in expected]
        assert found.span(4, 3, 12).tolist() == expected[4].tokens[3:12].tolist()
        assert found.num_bytes(4, 3, 12).tolist() == expected[4].num_bytes[3:12].tolist()
        assert found.total_bytes == sum(map(len, TEXTS))
        assert (found.num_undecodable, found.num_changed) == (1, 0)
    monkeypatch.setattr(tokens, "PIECE_BYTES", 16)
    assert list(tokens._pieces(TEXTS[0])) == [b"a short text\n", b"of two lines"]
    pieces = list(tokens._pieces(TEXTS[2]))
    assert b"".join(pieces) == TEXTS[2]
    assert all(piece.decode() for piece in pieces)


def test_rows_carry_the_bytes_of_targets(tokenizer, tmp_path):
    """Documents end with the closing token, a target of no bytes; the sums over a split are those of the text."""
    documents = tokenized(Texts(*TEXTS), tokenizer, tmp_path, True)
    count = sum(len(tokenizer.encode_bytes([text])[0].tokens) + 1 for text in TEXTS)
    for packed in (True, False):
        rows = Rows(documents, 16, packed)
        taken = rows.take(range(len(rows)))
        for batches in (taken, list(evaluation_batches(documents, 16, 2, packed))):
            assert sum(each["weights"].sum() for each in batches) == count
            assert sum((each["weights"] * each["bytes"]).sum() for each in batches) == sum(map(len, TEXTS))
        ends = [int(row["bytes"][row["targets"] == 1].sum()) for row in taken]
        assert not any(ends)
        if not packed:  # a document starts at the first token of a row and nowhere else
            assert not any((row["reset"] & (row["weights"] > 0))[1:].any() for row in taken)
            assert sum(row["reset"][0] for row in taken) == len(TEXTS)


def test_separate_rows_are_of_one_document(tokenizer, tmp_path):
    """Row r of a document has its tokens r T to r T + T, and the last one ends in padding."""
    documents = tokenized(Texts(*TEXTS), tokenizer, tmp_path, True)
    rows = Rows(documents, 8, packed=False)
    taken, expected = rows.take(range(len(rows))), []
    for k in range(len(documents)):
        text = np.concatenate([[0], documents[k]])
        for begin in range(0, len(text) - 1, 8):
            expected.append((text[begin : begin + 8][: len(text) - 1 - begin], text[begin + 1 : begin + 9]))
    assert len(taken) == len(expected)
    for row, (inputs, targets) in zip(taken, expected, strict=True):
        seen = row["weights"] > 0
        assert row["inputs"][seen].tolist() == inputs.tolist()
        assert row["targets"][seen].tolist() == targets.tolist()


def test_tokenizing_goes_on_after_a_kill(tokenizer, tmp_path, monkeypatch):
    """Complete files stay as they are; another text, tokenizer or time of writing gets a folder of its own."""
    monkeypatch.setattr(tokens, "SHARD_BYTES", 20)
    whole = tokenized(Texts(*TEXTS), tokenizer, tmp_path / "whole", True)
    written, write = [], tokens._write

    def killed(file, *rest):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(file)
        write(file, *rest)

    monkeypatch.setattr(tokens, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        tokenized(Texts(*TEXTS), tokenizer, tmp_path / "pieces", True)
    monkeypatch.setattr(tokens, "_write", lambda file, *rest: (written.append(file), write(file, *rest)))
    again = tokenized(Texts(*TEXTS), tokenizer, tmp_path / "pieces", True)
    assert len(set(written)) == len(written) > 2
    assert [again[k].tolist() for k in range(5)] == [whole[k].tolist() for k in range(5)]
    count = len(written)
    tokenized(Texts(*TEXTS), tokenizer, tmp_path / "pieces", True)
    assert len(written) == count
    edited = Texts(*TEXTS)
    edited.stamp = lambda: "later"
    tokenized(edited, tokenizer, tmp_path / "pieces", True)
    assert len(written) == 2 * count
