"""Defines the vocabulary of byte tokens: the bytes 0 to 255, and a token that opens every document."""

DOCUMENT_START = 256
"""Token that opens every document."""
VOCAB_SIZE = 288
"""257 rounded up to a multiple of 32, so that any usual mesh divides the embedding."""
