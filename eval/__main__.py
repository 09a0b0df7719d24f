"""Runs an evaluation command: python -m eval COMMAND ...; COMMANDS lists them."""

import difflib
import importlib
import sys

from train.cli import robust_output, user_errors
from train.compiler import avoid_unsound_fusions

COMMANDS = {
    "perplexity": ("eval.perplexity", "held-out loss and bits per byte of a run"),
    "generate": ("eval.generate", "text from a run"),
    "harness": ("eval.harness", "tasks of lm-evaluation-harness on a run or a published checkpoint"),
    "export": ("eval.export", "a run as a published checkpoint, for transformers"),
    "bench": ("eval.bench.cli", "speed of the ops beside what users would write instead"),
    "compare": ("eval.compare.cli", "every mixer trained on the same text with as many parameters"),
    "adapt": ("eval.adapt", "a model adapted to a text by a prompt, start states, LoRA and full training"),
    "widths": ("eval.widths", "the best learning rate of several widths, standard and muP"),
    "recipes": ("eval.recipes", "presets with other optimizers and groups, trained for equal times"),
    "scaling": ("eval.scaling", "plans of the large presets on many devices, and their curves"),
    "compile": ("eval.compiling", "every mixer and preset through the compilers of named chips"),
    "tasks": ("eval.tasks.cli", "small models on tasks with exact answers"),
    "accuracy": ("eval.accuracy.cli", "digits of the ops beside float64"),
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m eval COMMAND ...\n\n`python -m eval COMMAND --help` lists its settings. Commands:\n")
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:<14}{summary}")
        return 0 if arguments else 2
    avoid_unsound_fusions()
    with user_errors():
        if arguments[0] not in COMMANDS:
            close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown command {arguments[0]!r}.{hint} There are: {', '.join(COMMANDS)}")
        return importlib.import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])
    return 0


if __name__ == "__main__":
    with robust_output():
        sys.exit(main(sys.argv[1:]))
