"""Write docs/accuracy.md: what was measured and how, the largest errors, then all of them."""

import inspect
import itertools
import textwrap
from collections.abc import Iterator, Sequence

from eval.accuracy import bars
from eval.accuracy.cases import SIZES, Case
from eval.accuracy.measure import NOTHING, Row
from eval.accuracy.regimes import REGIMES


def page(rows: Sequence[Row], cases: Sequence[Case], lengths: tuple[int, int], command: str, machine: str) -> str:
    """Return the whole page, in Markdown."""
    return "\n".join(
        [
            *_introduction(lengths, command, machine),
            *_bars(bars.broken(rows)),
            *_summary(rows),
            *_regimes(rows),
            *_tables(rows, cases),
        ]
    )


def _introduction(lengths, command, machine):
    yield from ("# Accuracy", "")
    yield from _paragraph(
        """How far the ops are from their definition, computed step by step in NumPy float64 with gradients written by
        hand (`eval/oracles`). The oracle gets the same numbers, already rounded to the dtype: the errors below are
        those of the arithmetic and of rounding the results."""
    )
    yield from (f"    {command}", "", machine.replace("\n", "; "), "", "The error of an array of n numbers is", "")
    yield from (f"    ||got - want|| / max(||want||, {NOTHING:.0e} sqrt(n))", "")
    yield from _paragraph(
        f"""over all its elements, so root mean square over root mean square. The second term is an absolute scale: all
        inputs and cotangents are of size 1, and where the truth is 0 or below {NOTHING:.0e} of that (a state that a
        thousand gates have passed, the gradient of a key that writes nothing) the error is relative to {NOTHING:.0e}.
        What is not finite has the error `inf`."""
    )
    sizes = ", ".join(f"{letter} = {size}" for letter, size in SIZES.items())
    yield from _paragraph(
        f"""T = {lengths[0]:,}, and {lengths[1]:,} in the regime `long`; {sizes}. Other axes of an op have its own test
        sizes. The inputs are those of the op's declaration (`Op.draw`), with its variants: gates, keys and strengths of
        the regime, everything else standard normal, the cotangents of outputs and of last states too. Complex numbers
        are complex64. With bfloat16 all arrays are but the states, which are float32. An implementation that refuses an
        incoming state is measured without one."""
    )


def _bars(broken):
    strict = ", ".join(f"`{regime.name}`" for regime in bars.STRICT)
    yield from ("## Bars", "")
    yield from _paragraph(
        f"""The command fails where an error is above: in float32 {bars.FLOAT32["outputs"]:.0e} for outputs and final
        states and {bars.FLOAT32["gradients"]:.0e} for gradients in the regimes {strict},
        {bars.FLOAT32_ELSEWHERE["outputs"]:.0e} in all others; in bfloat16 {bars.HALF["outputs"]:.0e} for outputs and
        final states and {bars.HALF["gradients"]:.0e} for gradients. The bars are the same for all implementations, the
        references among them."""
    )
    yield "**Broken**, and bold in the tables:" if broken else "All are held."
    yield from ("", *(f"- {found}" for found in broken), *([""] if broken else []))


def _paragraph(text):
    return (*textwrap.wrap(inspect.cleandoc(text), 120), "")


def _summary(rows):
    strict = [regime.name for regime in bars.STRICT]
    names = ", ".join(strict)
    yield from (
        "## The worst",
        "",
        f"Over all variants, in the regimes {names} and in all; in brackets what it is, and where.",
        "",
        *_head("op", "dtype", "implementation", f"outputs: {names}", f"gradients: {names}", "outputs", "gradients"),
    )
    for (op, dtype, implementation), part in _grouped(rows, "op", "dtype", "implementation"):
        chosen = [row for row in part if row.regime in strict]
        cells = [_worst(some, kind) for some in (chosen, part) for kind in ("outputs", "gradients")]
        yield _line(f"`{op}`", dtype, implementation, *cells)
    yield ""


def _worst(rows, kind):
    found = [(error, name, row) for row in rows for name, error in getattr(row, kind).items()]
    if not found:
        return ""
    error, name, row = max(found, key=lambda item: item[0])
    return f"{_number(error)} ({', '.join(filter(None, (name, row.variant, row.regime)))})"


def _regimes(rows):
    yield from ("## Regimes", "", *_head("regime", "inputs"))
    used = {row.regime for row in rows}
    for regime in REGIMES:
        if regime.name in used:
            yield _line(regime.name, regime.words)
    yield from ("", "An op is measured in the regimes of what it draws: without gates, in no regime of gates.", "")


def _tables(rows, cases):
    for (op, dtype), part in _grouped(rows, "op", "dtype"):
        (case,) = [case for case in cases if case.op == op]
        yield from (f"## `{op}`, {dtype}", "")
        for (implementation,), its in _grouped(part, "implementation"):
            folded = implementation != case.implementations[0]
            if folded:
                yield from (f"<details><summary>{implementation}</summary>", "")
            yield from _table(its)
            yield from ("", "</details>", "") if folded else ("",)


def _table(rows):
    columns = dict.fromkeys(name for row in reversed(rows) for name in (*row.outputs, *row.gradients))
    yield from _head("implementation", "variant", "regime", *columns)
    for row in rows:
        limits = bars.bars(row)
        cells = {n: _number(e, limits[kind]) for kind in limits for n, e in getattr(row, kind).items()}
        yield _line(row.implementation, row.variant or "-", row.regime, *(cells.get(name, "") for name in columns))


def _number(error, bar=float("inf")):
    text = "0" if error == 0 else f"{error:.1e}"
    return text if error <= bar else f"**{text}**"


def _grouped(rows: Sequence[Row], *fields: str) -> Iterator[tuple[tuple[str, ...], list[Row]]]:
    """Yield the rows grouped by these fields, in the order in which they first occur."""

    def key(row):
        return tuple(getattr(row, field) for field in fields)

    order = list(dict.fromkeys(map(key, rows)))
    for values, part in itertools.groupby(sorted(rows, key=lambda row: order.index(key(row))), key):
        yield values, list(part)


def _head(*names):
    return _line(*names), _line(*("---" for _ in names))


def _line(*cells):
    return f"| {' | '.join(cells)} |"
