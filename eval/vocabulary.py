"""Text as tokens and back: bytes, as all runs have them, or the tokenizer of a published checkpoint."""

import codecs
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from train.data import DOCUMENT_START, Documents

Decoder = Callable[[Sequence[int], bool], str]
"""decode(tokens, final): the text that is certain by now; what of a character is missing waits, unless this is all."""


class Bytes:
    """A token is a byte; DOCUMENT_START opens a document."""

    start = DOCUMENT_START
    """Opens a document."""
    size = DOCUMENT_START
    """Tokens below this are text."""
    end = None
    """The token that closes a document; None: there is none."""

    def prompt(self, text: str) -> np.ndarray:
        """The tokens of a document that begins so."""
        return np.concatenate([[self.start], np.frombuffer(text.encode(), np.uint8)]).astype(np.int32)

    def decoder(self) -> Decoder:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return lambda tokens, final: decoder.decode(bytes(tokens), final)


class Tokenizer:
    """The tokenizer.json of a published checkpoint.

    Raises:
      ValueError: the directory has none, or its config.json names no token to open a document with.
      ImportError: the package tokenizers is not installed.
    """

    def __init__(self, directory: str):
        try:
            import tokenizers
        except ImportError as error:
            message = "tokenizer.json needs the package tokenizers: pip install 'recurrax[pretrained]'"
            raise ImportError(message) from error
        path = pathlib.Path(directory)
        if not (path / "tokenizer.json").exists():
            raise ValueError(f"{path} has no tokenizer.json; text cannot be read or written without one")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        self._stream = tokenizers.decoders.DecodeStream
        fields = json.loads((path / "config.json").read_text())
        self.size = self._tokenizer.get_vocab_size()
        end = fields.get("eos_token_id")
        self.end = end[0] if isinstance(end, list) else end
        self.start = self.end if fields.get("bos_token_id") is None else fields["bos_token_id"]
        if self.start is None:
            raise ValueError(
                f"{path / 'config.json'} names no token to open a document with: bos_token_id, eos_token_id"
            )

    def prompt(self, text: str) -> np.ndarray:
        """The tokens of a document that begins so, with what the tokenizer itself puts around it."""
        return np.asarray(self._tokenizer.encode(text).ids or [self.start], np.int32)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of the text alone; names of special tokens in it are text too."""
        self._tokenizer.encode_special_tokens = True
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        self._tokenizer.encode_special_tokens = False
        return np.asarray(ids, np.int32)

    def decoder(self) -> Decoder:
        stream = self._stream(skip_special_tokens=True)

        def decode(tokens, final):
            del final  # half a character at the very end is left out
            return "".join(stream.step(self._tokenizer, int(token)) or "" for token in tokens)

        return decode


class TokenDocuments:
    """Documents of bytes as documents of a tokenizer's tokens; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self, documents: Documents, tokenizer: Tokenizer):
        self.name = documents.name
        self.start = tokenizer.start
        texts = (bytes(documents[i]).decode(errors="replace") for i in range(len(documents)))
        self._tokens = [tokenizer.encode(text) for text in texts]

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._tokens[index]
