"""What a checkpoint must prove before it is used: that its files are undamaged, and that it fits the run.

The two questions are kept apart, because their answers differ. Damage is the disk's fault: fall back to the checkpoint
before. A misfit is the user's: stop and show the list. Damage is judged by checksums alone and fit by a record of the
leaves, so neither can be taken for the other, and no exception of the reading library has to be interpreted.

Why checksums of our own: orbax 0.12 has them for its index, but not for the arrays. Every single bit that was flipped
in a data file was read back as a wrong number without a word, and without `array_metadatas` a typed key came back as
plain integers; only deleted and strongly truncated files were errors.
"""

import errno
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping

import jax

SUMS = "SHA256SUMS"  # the format of sha256sum: `cd checkpoints/200 && sha256sum -c SHA256SUMS` asks the same question
RECORD = "record.json"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_BUFFER = 1 << 20


def describe(tree) -> dict[str, str]:
    """Every leaf as `path -> dtype[shape]`; arrays and `jax.ShapeDtypeStruct`s give the same answer.

    Typed keys appear as `key<fry>[]`, so that a change of the random generator shows too.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in leaves
    }


RETIRED = ("/mixer/decay",)
"""Ends of names of leaves that checkpoints of earlier versions hold and no state has now. The decays of Lightning and
TransNormerLLM, with their moments, were parameters; they are constants that follow from the config."""


def without_retired(stored: Mapping[str, str], expected: Mapping[str, str]) -> dict[str, str]:
    """Return the stored leaves without the retired ones that the expected state does not have."""
    return {name: leaf for name, leaf in stored.items() if name in expected or not name.endswith(RETIRED)}


def misfits(stored: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """One line per leaf that is missing, unexpected, or of another shape or dtype; empty if the checkpoint fits."""
    return [
        f"{path}: checkpoint has {stored.get(path, 'nothing')}, this run expects {expected.get(path, 'nothing')}"
        for path in sorted(stored.keys() | expected.keys())
        if stored.get(path) != expected.get(path)
    ]


def seal(directory: pathlib.Path, record: dict) -> None:
    """Adds `record` and the checksums of all files, and forces everything to the disk.

    To be called on a finished checkpoint that nobody else knows yet; renaming it afterwards is the commit.
    """
    (directory / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    lines = [f"{_sha256(directory / name, sync=True)}  {name}\n" for name in _files(directory)]
    with open(directory / SUMS, "w") as sums:
        sums.write("".join(lines))
        sums.flush()
        os.fsync(sums.fileno())
    for folder, _, _ in os.walk(directory):
        sync_directory(folder)


def damage(directory: pathlib.Path) -> list[str]:
    """One line per file that is missing, unexpected, unreadable or altered since `seal`; empty if all is well.

    Unexpected files count, because a list of checksums that lost its last lines would otherwise pass.
    """
    try:
        *lines, rest = (directory / SUMS).read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return [f"{SUMS} is missing"]
    stored = {}
    if rest:
        return [f"{SUMS} is damaged: its last line is cut"]
    for line in lines:
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            return [f"{SUMS} is damaged: line {line!r}"]
        stored[match[2]] = match[1]
    present = _files(directory)
    problems = [f"{name} is missing" for name in stored if name not in present]
    for name in present:
        if name not in stored:
            problems.append(f"{name} is not in {SUMS}")
            continue
        try:
            if _sha256(directory / name) != stored[name]:
                problems.append(f"{name} has changed (its sha256 is not the one in {SUMS})")
        except FileNotFoundError:
            problems.append(f"{name} is missing")
        except OSError as error:
            if error.errno != errno.EIO:  # a bad sector is damage; a lack of permission, for one, is not
                raise
            problems.append(f"{name} cannot be read: {error.strerror}")
    return problems


def read_record(directory: pathlib.Path) -> dict | None:
    """The record that `seal` was given, or None if it is not as it was then (cheap: nothing else is looked at)."""
    try:
        record = (directory / RECORD).read_bytes()
        sums = (directory / SUMS).read_text(errors="replace")
    except FileNotFoundError:
        return None
    if f"{hashlib.sha256(record).hexdigest()}  {RECORD}" not in sums.split("\n"):
        return None
    return json.loads(record)


def sync_directory(directory: str | os.PathLike) -> None:
    """Makes renames and new names in `directory` survive a power cut (fsync of the folder itself)."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(directory: pathlib.Path) -> list[str]:
    """All files below `directory`, as sorted relative paths, the list of checksums itself excepted."""
    paths = (pathlib.Path(folder, name) for folder, _, names in os.walk(directory) for name in names)
    return sorted(name for path in paths if (name := path.relative_to(directory).as_posix()) != SUMS)


def _sha256(path: pathlib.Path, *, sync: bool = False) -> str:
    with open(path, "rb", buffering=_BUFFER) as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
