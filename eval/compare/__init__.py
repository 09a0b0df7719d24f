"""Every mixer on the same text with as many parameters: `python -m eval compare` writes docs/mixers.md.

`models` lists the models and fits their sizes, `measure` trains one and times it, `page` writes the table and the
picture, `cli` reads the flags.
"""
