"""Provides `python -m eval export`: a run as a checkpoint in its family's published format."""

import dataclasses
import pathlib
import shutil

import tyro

from eval.run import open_run
from recurrax import adapters, pretrained
from recurrax.pretrained import directory as files
from train.paths import local_path
from train.starts import Pretrained

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "tokenizer.model", "generation_config.json", "chat_template.jinja"),
)
"""Files that a published checkpoint has beside config.json and its tensors."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Writes a run's parameters, merged with its adapter, and its tokenizer's files, in the published format."""

    workdir: str
    """Directory of the run."""
    directory: str
    """Directory to write; it may be empty or absent."""
    family: str | None = None
    """Family of the published format; None: that of the checkpoint from which the run started."""
    step: int | None = None
    """Step of the run's checkpoint; None: the newest."""


def main(arguments: list[str]) -> int:
    command = tyro.cli(Command, args=arguments, prog="python -m eval export")
    run = open_run(command.workdir, command.step)
    start, tokenizer = run.config.start, run.config.data.tokenizer
    if command.family is None and not isinstance(start, Pretrained):
        raise ValueError(
            f"the run in {run.path} did not start from a published checkpoint; --family says in which format to write "
            f"it: {', '.join(pretrained.FAMILIES)}"
        )
    family = command.family or pretrained.family_of(local_path("start.directory", start.directory))
    target = local_path("directory", command.directory)
    source = None if tokenizer is None else local_path("data.tokenizer", tokenizer)
    params = adapters.merge(run.config.adapter, run.config.model, run.params)
    pretrained.save(target, run.model, {"params": params}, family=family, fields=special_tokens(source))
    for name in TOKENIZER_FILES if source is not None else ():
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    print(f"step {run.step} of {run.path} is written to {target} as {family}")
    return 0


def special_tokens(source: pathlib.Path | None) -> dict:
    """Return the fields of config.json that name special tokens."""
    if source is None:
        return {}
    fields = files.read_json(source / "config.json")
    return {name: fields[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in fields}
