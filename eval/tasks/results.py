"""Stores results, one JSON file for each (task, mixer) and each experiment, written atomically and read to resume."""

import dataclasses
import pathlib

from eval.bench.report import commit
from eval.tasks.measure import Scores
from eval.tasks.suite import Setting
from recurrax.models import ClassifierConfig, RegressorConfig
from train.config_json import from_json, to_json
from train.workdir import read_json, versions, write_json_atomically

EXPERIMENTS = "experiments"
"""Name of the folder of experiments, beside one folder per task."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The scores of one mixer on one task: one row of a table."""

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


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The values that an experiment of a claim measured: numbers and lists of numbers by name."""

    experiment: str
    budget: str
    seeds: tuple[int, ...]
    values: dict
    seconds: float
    machine: dict


def path(root: pathlib.Path, budget: str, folder: str, name: str) -> pathlib.Path:
    """Return the file of a mixer (`name`) on a task (`folder`), or of an experiment (`folder` is `EXPERIMENTS`)."""
    return root / "results" / budget / folder / f"{name}.json"


def save(root: pathlib.Path, result: Result, model: ClassifierConfig | RegressorConfig) -> None:
    """Write the result with its setting, its model's config and the versions of the code."""
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    scores = dataclasses.asdict(fields.pop("scores"))
    config = {"setting": to_json(fields.pop("setting")), "model": to_json(model)}
    _write(path(root, result.budget, result.task, result.mixer), {**fields, **scores, "config": config})


def save_measurement(root: pathlib.Path, found: Measurement) -> None:
    """Write the measurement of an experiment with the versions of the code."""
    _write(path(root, found.budget, EXPERIMENTS, found.experiment), dataclasses.asdict(found))


def _write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(file, {**content, "versions": versions()})


def load(file: pathlib.Path) -> Result:
    """Return the result that `save` wrote."""
    found = read_json(file)
    by_length = {name: _by_length(found[name]) for name in ("score", "nats", "distance")}
    scores = Scores(**by_length, **{name: found[name] for name in ("loss", "roughness", "parameters", "seconds")})
    fields = {name: found[name] for name in ("task", "mixer", "budget", "machine")}
    setting = from_json(found["config"]["setting"])
    return Result(**fields, seeds=tuple(found["seeds"]), setting=setting, scores=scores)


def load_measurement(file: pathlib.Path) -> Measurement:
    """Return the measurement that `save_measurement` wrote."""
    found = read_json(file)
    fields = {field.name: found[field.name] for field in dataclasses.fields(Measurement)}
    return Measurement(**{**fields, "seeds": tuple(found["seeds"])})


def _by_length(values):
    return None if values is None else {int(length): each for length, each in values.items()}


def files(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the result files of all (task, mixer) pairs."""
    return [file for file in _all(root) if file.parent.name != EXPERIMENTS]


def measurement_files(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the measurement files of all experiments."""
    return [file for file in _all(root) if file.parent.name == EXPERIMENTS]


def _all(root):
    return sorted((root / "results").glob("*/*/*.json"))


def check_commit(root: pathlib.Path) -> None:
    """Raise ValueError if a result was made by other code or by other versions of packages."""
    now, others = versions(), {}
    for file in _all(root):
        then = read_json(file)["versions"]
        differs = [name for name in ("git", "packages") if then[name] != now[name]]
        if differs:
            others.setdefault(commit(then["git"]) if "git" in differs else "other packages", []).append(file)
    if others:
        lines = "".join(f"\n  {name}: {len(found)}, such as {found[0]}" for name, found in others.items())
        raise ValueError(
            f"{root} has results of other code than {commit(now['git'])}; they are not mixed. Choose another "
            "--workdir, remove them, or say --mixed: the page then names the code of every row:" + lines
        )
