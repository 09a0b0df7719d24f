"""What theory says of who can and who cannot, and what was measured beside it."""

import dataclasses
from collections.abc import Sequence

from eval.tasks.results import Result

SOLVED = 0.9
"""A mixer solves a task if one of its seeds has this share of right answers at the greatest length that is tested, far
beyond the trained one: what goes on there is a rule. That it can is shown by one seed."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of a paper, as who solves what."""

    title: str
    paper: str
    statement: str
    solve: dict[str, tuple[str, ...]]
    """By task: the mixers that must."""
    fail: dict[str, tuple[str, ...]]
    """By task: the mixers that must not."""

    def expected(self) -> dict[tuple[str, str], bool]:
        """Whether (task, mixer) is to be solved."""
        return {
            **{(task, mixer): True for task, names in self.solve.items() for mixer in names},
            **{(task, mixer): False for task, names in self.fail.items() for mixer in names},
        }


CLAIMS = (
    Claim(
        "State tracking is in the transitions",
        "arXiv 2405.17394, 2411.12537, 2502.10297",
        "One layer follows parity beyond the trained length only if an eigenvalue of its transitions can be negative, "
        "and what takes rotations (counting modulo 3, S3) only with two reflections per token. "
        "A GRU, which is not linear, follows all of them.",
        solve={
            "parity": ("DeltaNet-negative", "DeltaProduct", "GRU"),
            "modular-counting": ("DeltaProduct", "GRU"),
            "group-s3": ("DeltaProduct", "GRU"),
        },
        fail={
            "parity": ("DeltaNet", "GLA", "Mamba", "LRU"),
            "modular-counting": ("DeltaNet", "DeltaNet-negative", "GLA", "Mamba"),
            "group-s3": ("DeltaNet", "DeltaNet-negative", "GLA", "Mamba", "LRU"),
        },
    ),
    Claim(
        "To copy selectively, a recurrence must select",
        "arXiv 2312.00752",
        "Layers whose gates or keys depend on the input copy symbols that lie at random places; the recurrences that "
        "are the same at every step learn the trained length at best.",
        solve={"selective-copying": ("Mamba", "GLA", "GatedDeltaNet", "GRU")},
        fail={"selective-copying": ("LRU", "S5", "S4D")},
    ),
)


def verdict(claim: Claim, results: Sequence[Result]) -> tuple[str, list[tuple[Result, int, bool, bool]]]:
    """ "reproduced", "partly", "not" or "not run", and (result, length, expected, found) for all that ran."""
    rows = []
    for (task, mixer), wanted in claim.expected().items():
        for result in results:
            if (result.task, result.mixer) == (task, mixer):
                length = max(result.scores.score)
                rows.append((result, length, wanted, max(result.scores.score[length]) >= SOLVED))
    agree = [wanted == found for _, _, wanted, found in rows]
    # Both sides must have run: that nobody solves a task shows nothing, nor that all do.
    if {wanted for _, _, wanted, _ in rows} != {True, False}:
        return "not run", rows
    return ("reproduced" if all(agree) else "partly" if any(agree) else "not"), rows


def section(claim: Claim, results: Sequence[Result]) -> str:
    """The claim, what ran, and the verdict, in Markdown; nothing if nothing ran."""
    word, rows = verdict(claim, results)
    if word == "not run":
        return ""
    missing = len(claim.expected()) - len({(row[0].task, row[0].mixer) for row in rows})
    lines = ["| task | mixer | theory | best seed | at length | as expected |", "|---|---|---|---:|---:|---|"]
    for result, length, wanted, found in rows:
        best = max(result.scores.score[length])
        theory, agrees = "solves it" if wanted else "cannot", "yes" if wanted == found else "no"
        lines.append(f"| {result.task} | {result.mixer} | {theory} | {best:.3f} | {length} | {agrees} |")
    left = f" {missing} of its pairs did not run." if missing else ""
    word += " so far" * bool(missing)
    return f"""### {claim.title}: {word}

{claim.statement} ({claim.paper})

Solved means: one seed has {SOLVED:.0%} of the answers right at the greatest length.{left}

""" + "\n".join(lines)
