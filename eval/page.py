"""Writes the page of a comparison: a Markdown file with the command, the machine and the versions that made it."""

import pathlib
import shlex
from collections.abc import Callable
from typing import Protocol

from eval.bench import report
from train.allocator import keep_freed_memory
from train.paths import local_path
from train.workdir import Workdir


class Places(Protocol):
    """The settings of a comparison that say where it is kept."""

    workdir: str
    output: str | None
    """Markdown file; None: NAME.md in the working directory."""


def write_page(name: str, arguments: list[str], places: Places, make: Callable[[pathlib.Path], tuple[str, str]]) -> int:
    """Make a comparison in its locked working directory, write its page, and return the exit code.

    Args:
      name: the command of `python -m eval`.
      make: a function from the directory to what stands above and below the command and the machine. It raises
        KeyboardInterrupt where a signal has stopped it; the same command goes on then.
    """
    root = local_path("workdir", places.workdir)
    output = root / f"{name}.md" if places.output is None else local_path("output", places.output)
    keep_freed_memory()
    with Workdir(root):
        try:
            above, below = make(root)
        except KeyboardInterrupt:
            print("Stopped; the same command goes on")
            return 0
    shown = f"    python -m eval {name} {shlex.join(arguments)}\n\n```\n{report.header(report.machine())}\n```"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n\n".join(filter(None, (above, shown, below))) + "\n")
    print(f"wrote {output}")
    return 0
