"""Provides the vocabulary of byte tokens: the bytes 0 to 255, and a token that opens every document."""

import codecs
from collections.abc import Callable, Sequence

import numpy as np

DOCUMENT_START = 256
"""Token that opens every document."""
VOCAB_SIZE = 288
"""257 rounded up to a multiple of 32, so that any usual mesh divides the embedding."""


class Bytes:
    """Text as bytes, with the methods of `recurrax.pretrained.Tokenizer` that generation needs."""

    start = DOCUMENT_START
    """The token that opens a document."""
    ids = frozenset(range(256))
    """The tokens that may be drawn."""
    ends = frozenset()
    """The tokens that close a document; bytes have none."""

    def prompt(self, text: str) -> np.ndarray:
        """Return the tokens of a document that starts with `text`. Command-line bytes other than UTF-8 are kept."""
        text_bytes = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
        return np.concatenate([[self.start], text_bytes]).astype(np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Return the text of a whole sequence, without start tokens."""
        return bytes(token for token in map(int, tokens) if token < 256).decode(errors="replace")

    def decoder(self, prompt: Sequence[int] | np.ndarray = ()) -> Callable[[Sequence[int], bool], str]:
        """Return a decoder of the tokens that follow the prompt."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        decoder.decode(bytes(token for token in map(int, prompt) if token != self.start))
        return lambda tokens, final: decoder.decode(bytes(tokens), final)

    def check(self, vocab_size: int) -> None:
        """Raise ValueError if a model of `vocab_size` tokens lacks one."""
        if vocab_size < VOCAB_SIZE:
            raise ValueError(f"model.vocab_size {vocab_size} is less than the {VOCAB_SIZE} of the byte tokens")
