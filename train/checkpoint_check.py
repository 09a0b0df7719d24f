"""Check a checkpoint before it is used: its files must be undamaged, and it must fit the run.

The two checks are separate, because their consequences differ. After damage, which is the disk's fault, the run falls
back to the checkpoint before. A misfit is the user's error: the run stops and prints the list. Checksums alone decide
about damage and a record of the leaves about the fit, so that no exception of the reading library has to be
interpreted.

The checksums are our own because orbax 0.12 has them for its index, but not for the arrays. A single bit flipped in a
data file was read back as a wrong number without an error, and without `array_metadatas` a typed key came back as plain
integers; only deleted and strongly truncated files were errors.
"""

import errno
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping

import jax

SUMS = "SHA256SUMS"  # the format of sha256sum: `cd checkpoints/200 && sha256sum -c SHA256SUMS` does the same check
RECORD = "record.json"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_BUFFER = 1 << 20


def describe(tree) -> dict[str, str]:
    """Return `path -> dtype[shape]` of every leaf, the same for arrays and for `jax.ShapeDtypeStruct`s.

    Typed keys appear as `key<fry>[]`, so that a change of the random generator is a misfit too.
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
    """Return one line per leaf that is missing, unexpected, or of another shape or dtype; [] if the checkpoint fits."""
    return [
        f"{path}: checkpoint has {stored.get(path, 'nothing')}, this run expects {expected.get(path, 'nothing')}"
        for path in sorted(stored.keys() | expected.keys())
        if stored.get(path) != expected.get(path)
    ]


def seal(directory: pathlib.Path, record: dict) -> None:
    """Add `record` and the checksums of all files, and force everything to the disk.

    The caller renames the finished checkpoint afterwards, which commits it.
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
    """Return one line per file that is missing, unexpected, unreadable or changed since `seal`; [] without damage.

    An unexpected file is damage, because a list of checksums that lost its last lines would pass otherwise.
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
    """Return the record that `seal` was given, or None if it has changed since. No other file is read."""
    try:
        record = (directory / RECORD).read_bytes()
        sums = (directory / SUMS).read_text(errors="replace")
    except FileNotFoundError:
        return None
    if f"{hashlib.sha256(record).hexdigest()}  {RECORD}" not in sums.split("\n"):
        return None
    return json.loads(record)


def sync_directory(directory: str | os.PathLike) -> None:
    """Make renames and new names in `directory` survive a power failure, by an fsync of the directory itself."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(directory: pathlib.Path) -> list[str]:
    """Return the sorted relative paths of all files below `directory` except the list of checksums."""
    paths = (pathlib.Path(folder, name) for folder, _, names in os.walk(directory) for name in names)
    return sorted(name for path in paths if (name := path.relative_to(directory).as_posix()) != SUMS)


def _sha256(path: pathlib.Path, *, sync: bool = False) -> str:
    with open(path, "rb", buffering=_BUFFER) as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
