"""Names the kinds of data, by which data and objectives are matched."""

KINDS = {"text": "text", "classes": "data with classes", "numbers": "data with numbers"}
"""Kinds of data, and their names in messages."""
