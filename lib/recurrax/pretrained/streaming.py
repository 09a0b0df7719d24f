"""Decodes generated tokens incrementally; the joined text equals that of the whole sequence decoded at once.

The text of a token depends on its neighbours: a decoder drops the space of the first word of a text, joins the bytes of
a character, and replaces bytes that are not UTF-8. So no token is decoded alone. New tokens are decoded after the last
ones whose text was already returned, and the text that they add is new. Text that a later token could still change is
held back:

* text that ends in U+FFFD, which may be the first bytes of a character (byte-level BPE);
* a run of byte tokens, <0x00> to <0xFF>: if one byte of the run is not part of a character, byte fallback makes every
  byte of the run U+FFFD.
"""

from collections.abc import Callable, Collection, Sequence

Decoder = Callable[[Sequence[int], bool], str]
"""decode(tokens, final) returns the text that is certain after these tokens; with `final`, also the held-back text."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

PATIENCE = 16
"""Held tokens from which each failed attempt doubles the number before the next one, so that the cost is linear."""


class TextStream:
    """A `Decoder`. The pieces that it returns, joined, are decode(prompt + tokens) without the text of the prompt."""

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        prompt: Sequence[int],
        *,
        silent: Collection[int] = (),
        byte_tokens: Collection[int] = (),
    ):
        """Start after a prompt.

        Args:
          decode: returns the text of a whole sequence.
          prompt: tokens whose text is not returned.
          silent: tokens that `decode` leaves out.
          byte_tokens: tokens that stand for single bytes; see the module docstring.
        """
        self._decode = decode
        self._silent = silent
        self._byte_tokens = byte_tokens
        self._out: list[int] = []
        self._out_length = 0
        self._held: list[int] = [int(token) for token in prompt if int(token) not in silent]
        self._advance()

    def __call__(self, tokens: Sequence[int], final: bool) -> str:
        """Return the text that became certain; with `final`, all of the remaining text."""
        text = "".join(self._step(int(token)) for token in tokens if int(token) not in self._silent)
        return text + self._gained() if final else text

    def _step(self, token: int) -> str:
        self._held.append(token)
        if token in self._byte_tokens or len(self._held) < self._attempt_at:
            return ""
        text = self._gained()
        if text and not text.endswith(REPLACEMENT):
            self._advance()
            return text
        if len(self._held) >= PATIENCE:
            self._attempt_at = 2 * len(self._held)
        return ""

    def _gained(self) -> str:
        """Return the text of the held tokens, decoded after the tokens whose text was already returned."""
        return self._decode(self._out + self._held)[self._out_length :]

    def _advance(self) -> None:
        """Mark the text of the held tokens as returned; the next tokens are decoded after them."""
        if self._held:
            self._out, self._held = self._held, []
            self._out_length = len(self._decode(self._out))
        self._attempt_at = 0


def byte_tokens(tokenizer) -> frozenset[int]:
    """Return the tokens <0x00> to <0xFF> that the tokenizer decodes as bytes, and not as these literal characters."""
    names = (f"<0x{byte:{form}}>" for byte in range(256) for form in ("02X", "02x"))
    tokens = {name: token for name in names if (token := tokenizer.token_to_id(name)) is not None}
    return frozenset(t for name, t in tokens.items() if tokenizer.decode([t], skip_special_tokens=False) != name)
