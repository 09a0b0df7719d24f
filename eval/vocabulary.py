"""Encodes and decodes text: as bytes, as in all runs, or with the tokenizer of a published checkpoint."""

import codecs
import pathlib
from collections.abc import Sequence

import numpy as np

from eval import tokenizer_files
from eval.streaming import Decoder, TextStream, byte_tokens
from train.data import DOCUMENT_START, Documents


class Bytes:
    """The vocabulary of runs: a token is a byte, and DOCUMENT_START opens a document."""

    start = DOCUMENT_START
    """The token that opens a document."""
    ids = frozenset(range(256))
    """The tokens of text."""
    ends = frozenset()
    """The tokens that close a document; bytes have none."""

    def prompt(self, text: str) -> np.ndarray:
        """Return the tokens of a document that starts with `text`. Command-line bytes other than UTF-8 are kept."""
        text_bytes = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
        return np.concatenate([[self.start], text_bytes]).astype(np.int32)

    def decoder(self, prompt: Sequence[int] | np.ndarray = ()) -> Decoder:
        """Return a decoder of the tokens that follow the prompt."""
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
        self._tokenizer.encode_special_tokens = True
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        self._tokenizer.encode_special_tokens = False
        return np.asarray(ids, np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Return the text of a whole sequence, without special tokens."""
        return self._tokenizer.decode(list(map(int, tokens)), skip_special_tokens=True)

    def decoder(self, prompt: Sequence[int] | np.ndarray = ()) -> Decoder:
        """Return a decoder of the tokens that follow the prompt."""
        return TextStream(self.decode, prompt, silent=self._special, byte_tokens=self._byte_tokens)


class TokenDocuments:
    """Documents of bytes, encoded by a tokenizer; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self, documents: Documents, tokenizer: Tokenizer):
        self.name = documents.name
        self.start = tokenizer.start
        self.num_undecodable = 0
        """Number of documents that are not UTF-8."""
        self.num_changed = 0
        """Number of UTF-8 documents whose tokens decode to another text."""
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
    """Return the mask of tokens that may be sampled, bool (vocab_size,): the tokens that the vocabulary has."""
    mask = np.zeros(vocab_size, bool)
    mask[list(vocabulary.ids)] = True
    return mask
