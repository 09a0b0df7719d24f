"""Provides the command line of `python -m eval compare`."""

import dataclasses
import pathlib
import shlex

import tyro

from eval.bench import report
from eval.compare import models, page
from eval.compare.measure import Trained, timed, trained
from recurrax import checks
from train.allocator import keep_freed_memory
from train.config_json import to_json
from train.paths import local_path
from train.workdir import Workdir, read_json, versions, write_json_atomically


@dataclasses.dataclass(frozen=True)
class Compare:
    """Train every mixer on the same text with the same number of parameters, and writes a table and a figure.

    The same command resumes an interrupted comparison. Speeds are measured at the end of every call, one model after
    the other.
    """

    workdir: str
    """Directory of the runs, one folder each, and of results.json."""
    mixers: tuple[str, ...] = tuple(models.PATTERNS)
    """Names of the mixers to compare; all by default."""
    steps: int = 600
    """Training steps of 1,024 bytes each."""
    parameters: int = 1_000_000
    """Parameters of each model, as close as the projections' width allows."""
    output: str | None = None
    """Markdown file to write, with its figure beside it; None: WORKDIR/mixers.md."""

    def __post_init__(self):
        checks.positive(self, "steps", "parameters")
        for name in self.mixers:
            checks.choice("mixer", name, models.PATTERNS)


def main(arguments: list[str]) -> int:
    command = tyro.cli(Compare, args=arguments, prog="python -m eval compare")
    # All configs are made before any training, so that an invalid model fails at once and not after an hour.
    configs = {name: models.training(name, command.parameters, command.steps) for name in command.mixers}
    root = local_path("workdir", command.workdir)
    output = root / "mixers.md" if command.output is None else local_path("output", command.output)
    keep_freed_memory()
    rows, failed = [], []
    with Workdir(root):
        for name, config in configs.items():
            try:
                rows.append(_finished(_folder(root, name), config) or _train(name, config, _folder(root, name)))
            except FloatingPointError as error:
                failed.append(f"{name}: {error}")
            except KeyboardInterrupt:
                print(f"Stopped; the same command goes on with {name}")
                return 0
        # Speeds are not stored: if the machine was busy, the same command measures them again.
        results = []
        for row in rows:
            results.append(timed(row, configs[row.name], _folder(root, row.name)))
            print(page.table(results[-1:]).splitlines()[-1], flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    picture = output.with_suffix(".png")
    page.plot(results, picture)
    shown = f"python -m eval compare {shlex.join(arguments)}"
    output.write_text(page.page(results, command.steps, shown, report.header(report.machine()), picture.name))
    print(f"wrote {output} and {picture}")
    for line in failed:
        print(f"no result of {line}")
    return 1 if failed else 0


def _folder(root: pathlib.Path, name: str) -> pathlib.Path:
    return root / name.replace(" ", "-").replace(":", "-")


def _finished(folder: pathlib.Path, config) -> Trained | None:
    """Return the stored result if its config (model and steps) and its versions of the code are the present ones."""
    path = folder / "result.json"
    if not path.exists():
        return None
    found = read_json(path)
    same = found["config"] == to_json(config) and found["versions"] == versions()
    return Trained(**found["result"]) if same else None


def _train(name: str, config, folder: pathlib.Path) -> Trained:
    print(f"\n{name}", flush=True)
    row = trained(name, config, folder)
    found = {"result": dataclasses.asdict(row), "config": to_json(config), "versions": versions()}
    write_json_atomically(folder / "result.json", found)
    return row
