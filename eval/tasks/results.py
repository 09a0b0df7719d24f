"""What was found, one JSON file for each (budget, task, mixer): written when it is whole, read to go on."""

import dataclasses
import json
import pathlib

from eval.bench.report import commit
from eval.tasks.measure import Scores
from eval.tasks.suite import Setting
from recurrax.models import ClassifierConfig, RegressorConfig
from train.config import from_json, to_json
from train.workdir import versions, write_json_atomically


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of a table."""

    task: str
    mixer: str
    budget: str
    seeds: tuple[int, ...]
    setting: Setting
    scores: Scores
    machine: dict

    @property
    def farthest(self) -> float:
        """Mean score at the greatest length."""
        last = self.scores.score[max(self.scores.score)]
        return sum(last) / len(last)


def path(root: pathlib.Path, budget: str, task: str, mixer: str) -> pathlib.Path:
    return root / "results" / budget / task / f"{mixer}.json"


def save(root: pathlib.Path, result: Result, model: ClassifierConfig | RegressorConfig) -> None:
    """All that is known of how it came to be, beside what came out."""
    file = path(root, result.budget, result.task, result.mixer)
    file.parent.mkdir(parents=True, exist_ok=True)
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    scores = dataclasses.asdict(fields.pop("scores"))
    config = {"setting": to_json(fields.pop("setting")), "model": to_json(model)}
    write_json_atomically(file, {**fields, **scores, "config": config, "versions": versions()})


def load(file: pathlib.Path) -> Result:
    """What was saved."""
    found = json.loads(file.read_text())
    scores = Scores(
        score=_by_length(found["score"]),
        distance=_by_length(found["distance"]),
        **{name: found[name] for name in ("loss", "parameters", "seconds")},
    )
    fields = {name: found[name] for name in ("task", "mixer", "budget", "machine")}
    setting = from_json(found["config"]["setting"])
    return Result(**fields, seeds=tuple(found["seeds"]), setting=setting, scores=scores)


def _by_length(values):
    return None if values is None else {int(length): each for length, each in values.items()}


def files(root: pathlib.Path) -> list[pathlib.Path]:
    """Of all results in the folder."""
    return sorted((root / "results").glob("*/*/*.json"))


def check_commit(root: pathlib.Path) -> None:
    """Raises ValueError if a result in the folder was made by other code, or by other versions of packages."""
    now, others = versions(), {}
    for file in files(root):
        then = json.loads(file.read_text())["versions"]
        differs = [name for name in ("git", "packages") if then[name] != now[name]]
        if differs:
            others.setdefault(commit(then["git"]) if "git" in differs else "other packages", []).append(file)
    if others:
        lines = "".join(f"\n  {name}: {len(found)}, such as {found[0]}" for name, found in others.items())
        raise ValueError(
            f"{root} has results of other code than {commit(now['git'])}; they are not mixed. Choose another "
            f"--workdir, or remove them:{lines}"
        )
