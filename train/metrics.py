"""Writes the metrics of a run to metrics.jsonl, the terminal, TensorBoard and loss.png."""

import contextlib
import functools
import json
import math
import operator
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import rich.console
import rich.progress

from train import processes
from train.config import TrainConfig
from train.objectives import Objective

# After more non-finite steps in a row, the cause is not a single batch.
SKIPPED_IN_A_ROW = 10


def number(value) -> float | None:
    """Return a finite value as a float, else None, because JSON has no non-finite numbers."""
    return float(value) if math.isfinite(value) else None


class MetricsFile:
    """The file metrics.jsonl: one JSON object per logged step, in ascending order of steps, each step once.

    The file is opened at the step from which a run resumes: later rows, and a last row that is truncated by a kill, are
    dropped. Only the first of several processes writes; the others have the same `rows`.
    """

    def __init__(self, path: str | os.PathLike, step: int):
        self._path = pathlib.Path(path)
        self.rows = [row for row in read_metrics(self._path) if row["step"] <= step]
        self._reopen()

    def append(self, row: dict) -> None:
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def amend(self, row: dict) -> None:
        """Add fields to the last row, which must be of the same step."""
        assert self.rows[-1]["step"] == row["step"]
        self.rows[-1] |= row
        self._file.close()
        self._reopen()

    def go_back(self, step: int) -> None:
        """Drop the rows after this step."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        self._file.close()
        self._reopen()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def _reopen(self):
        if not processes.is_first():
            self._file = open(os.devnull, "a")  # noqa: SIM115
            return
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        os.replace(temporary, self._path)
        self._file = self._path.open("a")


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Return the rows of a metrics.jsonl, none if the file does not exist. An unterminated last line is left out.

    Raises:
      ValueError: another line is not a row of a step; the message names it.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            operator.index(row["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"line {number} of {path} is damaged; remove it to go on without it: {line!r:.80}"
            ) from error
        rows.append(row)
    return rows


class Recorder:
    """Takes every step's metrics and writes those that are due, one step late, so that the device never waits."""

    def __init__(
        self,
        config: TrainConfig,
        writers: Sequence[Callable[[dict], None]],
        display: "Display",
        checkpoints: Callable[[], Sequence[int]],
    ):
        self._config, self._writers, self._display, self._checkpoints = config, writers, display, checkpoints
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._before: dict[str, jax.Array] = {}
        self._checked, self._skipped_in_a_row = None, 0
        self._restart_clock()

    def step(self, step: int, metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Take the metrics of this step, which may still be being computed; settle those of the step before.

        Returns:
          The metrics of the step before; none at the first one.
        """
        self.settle()
        before, self._before = self._before, metrics
        self._pending = step, metrics
        self._steps += 1
        self._display.advance(step)
        return before

    def go_back(self) -> None:
        """Drop the metrics of the last step."""
        self._pending = self._checked = None
        self._before = {}
        self._restart_clock()

    @contextlib.contextmanager
    def pause(self) -> Iterator[Callable]:
        """Wait for the last step and yield `settle`; the time inside the context is excluded from tokens_per_second."""
        _, metrics = self._pending
        self._check(*self._pending)
        jax.block_until_ready(metrics)
        rate = self._rate()
        yield functools.partial(self.settle, rate=rate)
        self._restart_clock()

    def settle(self, *, validation: Mapping[str, float] | None = None, rate: float | None = None) -> None:
        """Check the last step's metrics, and write its row if it is due or has been evaluated.

        Raises:
          FloatingPointError: the loss or the gradient is not finite, and such steps are not skipped or too many were
            skipped in a row.
        """
        if self._pending is None:
            return
        (step, metrics), config = self._pending, self._config
        self._check(step, metrics)
        self._pending = None
        # A step with an evaluation has a row even if the evaluation was interrupted: a later call adds the loss to it.
        if step % config.log.every and step % config.evaluation.every and step != config.steps:
            return
        row = {"step": step, "loss": number(metrics["loss"])}
        row |= validation or {}
        row |= {name: number(value) for name, value in metrics.items() if name not in ("loss", "spike")}
        row["tokens_per_second"] = self._rate() if rate is None else rate
        if rate is None:
            self._restart_clock()
        for write in self._writers:
            write(row)
        tokens_left = (config.steps - step) * self._tokens_per_step
        self._display.show(row, tokens_left / row["tokens_per_second"])

    def _check(self, step, metrics):
        if step == self._checked:
            return
        self._checked = step
        wrong = [name for name in ("loss", "grad_norm") if not math.isfinite(metrics[name])]
        if not wrong:
            self._skipped_in_a_row = 0
            return
        what = f"{wrong[0]} is {float(metrics[wrong[0]])} at step {step}"
        self._skipped_in_a_row += 1
        if self._config.on_nonfinite == "skip" and self._skipped_in_a_row <= SKIPPED_IN_A_ROW:
            self._display.say(f"warning: {what}; its batch changed nothing ({int(metrics['skipped'])} skipped so far)")
            return
        steps = self._checkpoints()
        last = f"the last good checkpoint is that of step {steps[-1]}" if steps else "there is no checkpoint yet"
        if self._config.on_nonfinite == "skip":
            raise FloatingPointError(f"{what}, the last of {self._skipped_in_a_row} in a row; {last}")
        raise FloatingPointError(
            f"{what}; {last}. Nothing was saved since. --on_nonfinite skip goes on without such a batch"
        )

    @property
    def _tokens_per_step(self):
        return self._config.data.batch_size * self._config.data.sequence_length

    def _restart_clock(self):
        self._start, self._steps = time.monotonic(), 0

    def _rate(self):
        return max(self._steps, 1) * self._tokens_per_step / max(time.monotonic() - self._start, 1e-9)


class Display:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, step: int, steps: int, objective: Objective):
        # Lines are never wrapped, because log files have no width.
        self._console = rich.console.Console(highlight=False, soft_wrap=True, quiet=not processes.is_first())
        self._steps, self._objective = steps, objective
        self._bar = None
        if self._console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("step {task.completed}/{task.total}"),
                rich.progress.BarColumn(),
                rich.progress.TextColumn("{task.fields[numbers]}"),
                rich.progress.TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=steps, completed=step, numbers="")

    def __enter__(self):
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()

    def advance(self, step: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=step)

    def show(self, row: dict, seconds_left: float) -> None:
        """Show a logged row on the bar or as a line."""
        means = "skipped" if row["loss"] is None else self._objective.show(row)
        numbers = f"{means}, {row['tokens_per_second']:,.0f} tokens/s"
        if self._bar:
            self._bar.update(self._task, completed=row["step"], numbers=numbers)
        else:
            minutes, seconds = divmod(round(seconds_left), 60)
            self.say(f"step {row['step']:>6}/{self._steps}  {numbers}  {minutes}:{seconds:02d} left")

    def say(self, message: str) -> None:
        self._console.print(message, markup=False)


def require_tensorboard() -> None:
    """Raise ValueError if the extra `tensorboard` is not installed."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise ValueError("log.tensorboard needs the extra: pip install -e '.[tensorboard]'") from None


def tensorboard_writer(folder: str | os.PathLike) -> Callable[[dict], None]:
    """Return a function that writes a row as TensorBoard scalars into the folder."""
    import tensorboardX

    writer = tensorboardX.SummaryWriter(str(folder))

    def write(row: dict) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                writer.add_scalar(name, value, row["step"])
        writer.flush()

    return write


def plot_loss(rows: list[dict], path: str | os.PathLike, title: str, objective: Objective) -> None:
    """Plot training and held-out loss over steps to `path`, in the objective's unit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    trained = [row for row in rows if row["loss"] is not None]
    losses = [objective.in_unit(row) for row in trained]
    axes.plot([row["step"] for row in trained], losses, lw=1, color="0.6", label="training")
    held_out = [row for row in rows if "validation_loss" in row]
    if held_out:
        means = [
            {name.removeprefix("validation_"): row[name] for name in row if name.startswith("validation_")}
            for row in held_out
        ]
        values = [objective.in_unit(each) for each in means]
        axes.plot([row["step"] for row in held_out], values, "o-", ms=4, label=f"held out, last {values[-1]:.3f}")
    axes.set(xlabel="step", ylabel=objective.unit)
    axes.set_title(title, parse_math=False)  # a directory's name may look like a formula
    axes.grid(alpha=0.3)
    axes.legend()
    temporary = pathlib.Path(path).with_suffix(".writing.png")
    figure.savefig(temporary, dpi=120)
    os.replace(temporary, path)
