"""Train every mixer on the same text with the same number of parameters: `python -m eval compare`.

`models` lists the models and fits their sizes, `measure` trains one and times it, `page` writes docs/comparison.md and
its figure, `cli` reads the flags.
"""
