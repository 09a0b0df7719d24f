"""Streamed text: the pieces that come token by token are the text of the whole sequence, whatever the tokenizer."""

import functools

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from recurrax.pretrained.streaming import REPLACEMENT, TextStream, byte_tokens

SPECIAL = ("<s>", "</s>", "<unk>")


def numbered(names):
    return {name: number for number, name in enumerate([*SPECIAL, *names])}


def byte_level():
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "Ġth", "Ã©"]
    tokenizer = Tokenizer(models.BPE(numbered(names), [("t", "h"), ("Ġ", "th"), ("Ã", "©")]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    return tokenizer


def byte_fallback(*names):
    data = sorted({*"é€😀".encode(), 0x0A, 0x41, 0xFF})
    names = [*(f"<0x{byte:02X}>" for byte in data), *names]
    tokenizer = Tokenizer(models.BPE(numbered(names), [], unk_token="<unk>", byte_fallback=True))
    strip = decoders.Strip(" ", 1, 0)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Sequence(parts)
    return tokenizer


def word_level(*names, decoder=None, pre_tokenizer=None):
    tokenizer = Tokenizer(models.WordLevel(numbered(names), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.WhitespaceSplit()
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


KINDS = {
    "byte-level": byte_level,
    "byte fallback": lambda: byte_fallback("▁", "▁the", "▁cat", "s", REPLACEMENT),
    "metaspace": lambda: word_level(
        "▁", "▁the", "▁cat", "s", decoder=decoders.Metaspace(), pre_tokenizer=pre_tokenizers.Metaspace()
    ),
    "word pieces": lambda: word_level("the", "##s", "cat", ".", "'s", "##'", decoder=decoders.WordPiece()),
    "word ends": lambda: word_level("the</w>", "ca", "t</w>", "s", decoder=decoders.BPEDecoder("</w>")),
    "words": lambda: word_level("the", "cat", "s", REPLACEMENT),
}


@functools.cache
def tokenizer_of(kind):
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def stream(tokenizer, prompt=(), decode=None):
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return TextStream(decode or tokenizer.decode, prompt, silent=special, byte_tokens=byte_tokens(tokenizer))


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_pieces_are_the_whole_text(kind):
    """Random tokens, special ones and broken characters among them, behind a prompt of some more or of none."""
    tokenizer = tokenizer_of(kind)
    random = np.random.default_rng(0)
    for case in range(300):
        prompt = random.integers(0, tokenizer.get_vocab_size(), case % 4).tolist()
        tokens = random.integers(0, tokenizer.get_vocab_size(), random.integers(0, 30)).tolist()
        if case % 2:  # few different tokens: long runs of bytes and of spaces
            tokens = random.choice(tokens[:4] or [0], len(tokens)).tolist()
        whole = tokenizer.decode(prompt + tokens)[len(tokenizer.decode(prompt)) :]
        decode, text = stream(tokenizer, prompt), ""
        for token in tokens:
            text += decode([token], False)
            assert whole.startswith(text), (prompt, tokens)
        assert text + decode([], True) == whole, (prompt, tokens)
        assert stream(tokenizer, prompt)(tokens, True) == whole


@pytest.mark.parametrize("kind", ["metaspace", "word pieces", "word ends"])
def test_streamed_words_come_at_once(kind):
    tokenizer = tokenizer_of(kind)
    decode = stream(tokenizer)
    for token in range(len(SPECIAL) + 1, tokenizer.get_vocab_size()):
        assert decode([token], False), tokenizer.id_to_token(token)


@pytest.mark.parametrize(
    ("kind", "prompt", "names", "pieces"),
    [
        ("byte fallback", "the", ["▁cat"], [" cat"]),
        ("byte fallback", "", ["▁cat", "▁cat"], ["cat", " cat"]),
        ("byte fallback", "the", ["<0xC3>", "<0xA9>", "s"], ["", "", "és"]),
        ("byte fallback", "the", ["<0x0A>", "<0xFF>", "▁cat"], ["", "", REPLACEMENT * 2 + " cat"]),
        ("byte-level", "the", ["Ã", "<s>", "©", "a"], ["", "", "é", "a"]),
        ("byte-level", "the", ["â", "Ĥ", "a"], ["", "", REPLACEMENT + "a"]),
    ],
)
def test_streamed_pieces_worked_out_by_hand(kind, prompt, names, pieces):
    tokenizer = tokenizer_of(kind)
    decode = stream(tokenizer, tokenizer.encode(prompt).ids)
    assert [decode([tokenizer.token_to_id(name)], False) for name in names] == pieces
    assert decode([], True) == ""


@pytest.mark.parametrize("tokens", ["th", "ÿ", "Ã"])
def test_streaming_costs_are_linear_in_length(tokens):
    """Tokens passed to the decoder, for text, for bytes that are never a character, and for unfinished ones."""
    tokenizer, size, passed = tokenizer_of("byte-level"), 4000, []
    decode = stream(tokenizer, decode=lambda ids: passed.append(len(ids)) or tokenizer.decode(ids))
    for _ in range(size):
        decode([tokenizer.token_to_id(tokens)], False)
    decode([], True)
    assert sum(passed) < 8 * size
