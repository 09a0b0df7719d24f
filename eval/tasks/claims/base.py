"""What a claim is: predictions of a theory, and what was measured beside each."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from eval.tasks.results import Measurement, Result

SOLVED = 0.9
"""A mixer solves a task if one of its seeds has this share of right answers at the greatest length that is tested, far
beyond the trained one: what goes on there is a rule. That it can is shown by one seed."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that one budget has found so far."""

    budget: str
    results: Mapping[tuple[str, str], Result]
    """By task and mixer."""
    measurements: Mapping[str, Measurement]
    """By the experiment's name."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One prediction, and what became of it."""

    what: str
    """Who, or which quantity, on what."""
    theory: str
    measured: str
    agrees: bool


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of a paper, what is run for it, and which numbers would follow from it."""

    name: str
    title: str
    paper: str
    statement: str
    """What is claimed, what runs here, and what counts as agreement."""
    compare: Callable[[Findings], list[Check]]
    """The predictions that what was found can decide; none if only one side of the claim ran."""
    pairs: tuple[tuple[str, str], ...] = ()
    """(task, mixer) of the suite that it needs."""
    experiments: Mapping[str, Callable[[str, tuple[int, ...]], dict]] = dataclasses.field(default_factory=dict)
    """What it measures otherwise, by name: of budget and seeds."""
    draw: Callable[[Figure, Findings], None] | None = None
    """Its picture, on an empty figure."""
    tried: str = ""
    """What else was tried where a prediction did not come true."""

    def missing(self, found: Findings) -> int:
        """How much of what it needs did not run."""
        pairs = sum(pair not in found.results for pair in self.pairs)
        return pairs + sum(name not in found.measurements for name in self.experiments)


def verdict(checks: Sequence[Check]) -> str:
    """reproduced, partly or not."""
    agree = [check.agrees for check in checks]
    return "reproduced" if all(agree) else "partly reproduced" if any(agree) else "not reproduced"


def bands(found: Findings, solve: Mapping[str, Sequence[str]], fail: Mapping[str, Sequence[str]]) -> list[Check]:
    """A check per (task, mixer): those of `solve` must be SOLVED, those of `fail` must not.

    None if only one side ran: that all solve a task shows nothing. Nor does that nobody does: on such a task those of
    `fail` are left out.
    """
    able = [_band(found.results[pair], True) for pair in all_pairs(solve) if pair in found.results]
    learnt = {task for task, mixer in all_pairs(solve) if _solved(found.results.get((task, mixer)))}
    unable = [
        _band(found.results[task, mixer], False)
        for task, mixer in all_pairs(fail)
        if (task, mixer) in found.results and (task in learnt or task not in solve)
    ]
    ran = any(pair in found.results for pair in all_pairs(fail))
    return able + unable if able and ran else []


def _solved(result):
    return result is not None and max(result.scores.score[max(result.scores.score)]) >= SOLVED


def _band(result, wanted):
    length = max(result.scores.score)
    best = max(result.scores.score[length])
    theory = f"solves it: {SOLVED} or more" if wanted else f"cannot: below {SOLVED}"
    what = f"{result.mixer} on {result.task}, best seed at {length}"
    return Check(what, theory, f"{best:.3f}", _solved(result) == wanted)


def all_pairs(*named: Mapping[str, Sequence[str]]) -> tuple[tuple[str, str], ...]:
    """(task, mixer) of such tables."""
    return tuple((task, mixer) for each in named for task, mixers in each.items() for mixer in mixers)


def mean(result: Result, length: int | None = None, name: str = "score") -> float:
    """Over seeds, at this length or the trained one."""
    values = getattr(result.scores, name)[length or result.setting.task.length]
    return sum(values) / len(values)


def table(checks: Sequence[Check]) -> str:
    """In Markdown."""
    rows = [
        f"| {check.what} | {check.theory} | {check.measured} | {'yes' if check.agrees else '**no**'} |"
        for check in checks
    ]
    return "\n".join(["| what | theory | measured | agrees |", "|---|---|---:|---|", *rows])
