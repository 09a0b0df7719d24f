"""Measures the precision of the ops: `python -m eval accuracy` writes docs/accuracy.md.

`regimes` draws the inputs, `cases` lists the ops with their implementations and oracles, `measure` compares the two,
`bars` says what is enough, `page` writes it down, `cli` reads the flags.
"""
