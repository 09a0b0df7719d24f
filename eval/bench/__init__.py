"""Benchmarks of the ops against what one would write without them: `python -m eval bench --op diagonal_scan`.

`shapes` names the sizes, `contestants` says for each op who runs, on what, and what is right, `programs` compiles,
`verify` compares with the truth, `measure` times, `report` prints, plots and writes JSON lines, `cli` reads the flags.
A new op is one more `Benchmark` in `contestants`.
"""
