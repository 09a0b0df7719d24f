"""Provides the tokenizer of a published checkpoint, for text that is read whole and for text that is sampled."""

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recurrax.pretrained import tokenizer_files
from recurrax.pretrained.streaming import Decoder, TextStream, byte_tokens

REPLACEMENT = 0xFFFD


class Encoded(NamedTuple):
    """The tokens of a text."""

    tokens: np.ndarray
    """int32, shape (n,)."""
    num_bytes: np.ndarray
    """Bytes of the text that each token adds to those before it, int32, (n,); they sum to the length of the text."""
    is_utf8: bool
    """Whether the text is UTF-8; each byte that is not was read as U+FFFD."""
    is_same: bool
    """Whether the tokens decode to the text that was read."""


class Tokenizer:
    """The tokenizer.json of a published checkpoint, with the special tokens that its other files name.

    Raises:
      ValueError: a file is missing or cannot be read, or no token opens a document, or a special token is unknown.
      ImportError: the package tokenizers is not installed.
    """

    def __init__(self, directory: str | pathlib.Path):
        path = pathlib.Path(directory).expanduser()
        self._tokenizer = tokenizer_files.open_tokenizer(path)
        self._byte_tokens = byte_tokens(self._tokenizer)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)
        self.ids = frozenset(self._tokenizer.get_vocab(with_added_tokens=True).values())
        """The tokens that may be drawn."""
        self.start, self.ends = tokenizer_files.special_ids(path, self.ids)
        self.end = tokenizer_files.closing_id(path)
        """The token that closes a document, the first eos_token_id of config.json; None if it names none."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that determines the tokens of a text."""
        text = json.dumps([self._tokenizer.to_str(), self.start, self.end])
        return hashlib.sha256(text.encode()).hexdigest()

    def prompt(self, text: str) -> np.ndarray:
        """Return the tokens of a document that starts with `text`.

        Special tokens that the tokenizer adds before a text are kept; those that it adds after it are dropped, because
        the text continues.

        Raises:
          ValueError: the text is not Unicode, or the tokenizer has no token for any part of it.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the prompt is not UTF-8: {error}") from error
        encoding = self._tokenizer.encode(text)
        size = len(encoding.ids)
        while size and encoding.special_tokens_mask[size - 1]:
            size -= 1
        if text and not size:
            raise ValueError(f"the tokenizer makes no token of the prompt {text!r}")
        return np.asarray(encoding.ids[:size] or [self.start], np.int32)

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens of the text, without special tokens; their names within the text are encoded as text."""
        return self.encode_bytes([text.encode()])[0].tokens

    def encode_bytes(self, texts: Sequence[bytes]) -> list[Encoded]:
        """Return the tokens of several texts, encoded on all cores. A byte that is not UTF-8 is read as U+FFFD."""
        read = [_read(text) for text in texts]
        self._tokenizer.encode_special_tokens = True
        encodings = self._tokenizer.encode_batch([text for text, _, _ in read], add_special_tokens=False)
        self._tokenizer.encode_special_tokens = False
        decoded = self._tokenizer.decode_batch([each.ids for each in encodings], skip_special_tokens=True)
        return [
            Encoded(np.asarray(each.ids, np.int32), _bytes_of(each.offsets, places), is_utf8, back == text)
            for each, back, (text, places, is_utf8) in zip(encodings, decoded, read, strict=True)
        ]

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Return the text of a whole sequence, without special tokens."""
        return self._tokenizer.decode(list(map(int, tokens)), skip_special_tokens=True)

    def decoder(self, prompt: Sequence[int] | np.ndarray = ()) -> Decoder:
        """Return a decoder of the tokens that follow the prompt."""
        return TextStream(self.decode, prompt, silent=self._special, byte_tokens=self._byte_tokens)

    def check(self, vocab_size: int) -> None:
        """Raise ValueError if there are tokens that a model of `vocab_size` tokens does not have."""
        largest = max(*self.ids, self.start)
        if largest >= vocab_size:
            raise ValueError(
                f"the tokenizer's ids reach {largest}, but the model's vocabulary has {vocab_size} tokens, 0 to "
                f"{vocab_size - 1}: they do not belong together"
            )


def _read(text: bytes) -> tuple[str, np.ndarray, bool]:
    """Return the characters, the position in bytes of each and of the end, and whether the text is UTF-8."""
    codes = np.frombuffer(text.decode(errors="surrogateescape").encode("utf-32-le", "surrogatepass"), "<u4").copy()
    stray = (codes >= 0xDC80) & (codes <= 0xDCFF)  # a byte that is not UTF-8
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800).astype(np.int64) + (codes >= 0x10000)
    sizes[stray] = 1
    codes[stray] = REPLACEMENT
    return codes.tobytes().decode("utf-32-le"), np.concatenate([[0], np.cumsum(sizes)]), not stray.any()


def _bytes_of(offsets: Sequence[tuple[int, int]], places: np.ndarray) -> np.ndarray:
    """Return the bytes from the end of the tokens before to the end of each token; the last takes what remains."""
    if not offsets:
        return np.zeros(0, np.int32)
    ends = np.maximum.accumulate(places[[end for _, end in offsets]])
    ends[-1] = places[-1]
    return np.diff(ends, prepend=0).astype(np.int32)
