"""Provides text as tokens and back: bytes, as all runs have them, or the tokenizer of a published checkpoint."""

import codecs
import pathlib
from collections.abc import Sequence

import numpy as np

from eval import tokenizer_files
from eval.streaming import Decoder, TextStream, byte_tokens
from train.data import DOCUMENT_START, Documents


class Bytes:
    """A token is a byte; DOCUMENT_START opens a document."""

    start = DOCUMENT_START
    """Opens a document."""
    ids = frozenset(range(256))
    """The tokens of texts."""
    ends = frozenset()
    """The tokens that close a document: bytes have none."""

    def prompt(self, text: str) -> np.ndarray:
        """Return the tokens of a document that begins so. Bytes of a command line that are not UTF-8 are themselves."""
        text_bytes = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
        return np.concatenate([[self.start], text_bytes]).astype(np.int32)

    def decoder(self, prompt: Sequence[int] | np.ndarray = ()) -> Decoder:
        """Return the decoder of what follows the prompt."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        decoder.decode(bytes(token for token in map(int, prompt) if token != self.start))
        return lambda tokens, final: decoder.decode(bytes(tokens), final)


class Tokenizer:
    """The tokenizer.json of a published checkpoint, with the special tokens that its other files name.

    Raises:
      ValueError: a file is missing or cannot be read, or no token opens a document, or a special token is unknown.
      ImportError: the package tokenizers is not installed.
    """

    def __init__(self, directory: str):
        path = pathlib.Path(directory)
        self._tokenizer = tokenizer_files.open_tokenizer(path)
        self._byte_tokens = byte_tokens(self._tokenizer)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)
        self.ids = frozenset(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.start, self.ends = tokenizer_files.special_ids(path, self.ids)

    def prompt(self, text: str) -> np.ndarray:
        """Return the tokens of a document that begins so.

        What the tokenizer puts in front of a text is kept. What it puts behind one is not: the text goes on.

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
        """Return the tokens of the text alone; names of special tokens in it are text too."""
        self._tokenizer.encode_special_tokens = True
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        self._tokenizer.encode_special_tokens = False
        return np.asarray(ids, np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Return the text of a whole sequence, without special tokens."""
        return self._tokenizer.decode(list(map(int, tokens)), skip_special_tokens=True)

    def decoder(self, prompt: Sequence[int] | np.ndarray = ()) -> Decoder:
        """Return the decoder of what follows the prompt."""
        return TextStream(self.decode, prompt, silent=self._special, byte_tokens=self._byte_tokens)


class TokenDocuments:
    """Documents of bytes as documents of a tokenizer's tokens; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self, documents: Documents, tokenizer: Tokenizer):
        self.name = documents.name
        self.start = tokenizer.start
        self.num_undecodable = 0
        """Documents that are not UTF-8."""
        self.num_changed = 0
        """Documents of UTF-8 whose tokens spell another text."""
        self._tokens = []
        for i in range(len(documents)):
            content = bytes(documents[i])
            text = content.decode(errors="replace")
            tokens = tokenizer.encode(text)
            if text.encode() != content:
                self.num_undecodable += 1
            elif tokenizer.decode(tokens) != text:
                self.num_changed += 1
            self._tokens.append(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._tokens[index]


def check_reach(vocabulary: Bytes | Tokenizer, vocab_size: int) -> None:
    """Raise ValueError if the vocabulary has tokens that a model of `vocab_size` tokens does not have."""
    largest = max(*vocabulary.ids, vocabulary.start)
    if largest >= vocab_size:
        raise ValueError(
            f"the tokenizer's ids reach {largest}, but the model's vocabulary has {vocab_size} tokens, 0 to "
            f"{vocab_size - 1}: they do not belong together"
        )


def drawable(vocabulary: Bytes | Tokenizer, vocab_size: int) -> np.ndarray:
    """Return which tokens of a model may be drawn, bool (vocab_size,): those that the vocabulary has."""
    mask = np.zeros(vocab_size, bool)
    mask[list(vocabulary.ids)] = True
    return mask
