"""Counts the cycles of kernels in the schedules that the TPU compiler writes: bundles of instructions, one per cycle.

The compiler estimates no time for a kernel written in Pallas. But it can write the final schedule of every operation to
a folder. There a loop begins at a bundle labelled LB, `>` marks its depth, and its last bundles compare its counter:

     0x25e LB: >> { ... }
     0x2a3   : >> { ...  %p1 = scmp.ge.s32.totalorder %s2269_s30, 66 /* loop exit test */  ... }

Bundles that are executed by some turns alone, such as the start of a state, count in each. A loop without such a
comparison counts once: loops that start the copies of an incomplete last block are of this kind.
"""

import atexit
import os
import pathlib
import re
import shutil
import tempfile

BUNDLE = re.compile(r"^\s*0x[0-9a-f]+\s+(?P<label>[A-Z]{2})?\s*:\s*(?P<depth>>*)")
EXIT = re.compile(r"scmp\.ge\.s32\.totalorder \S+, (\d+) /\* loop exit test \*/")
FILE = re.compile(r"^\d+-(?P<name>.+)-\d+-final_bundles\.txt$")
FLAGS = "--xla_jf_dump_to={} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
VARIABLE = "LIBTPU_INIT_ARGS"

GRID = 1
"""Depth of the loop over a kernel's blocks."""
COPIES = 2
"""Turns of that loop which only start the first copy and finish the last one."""


def written() -> pathlib.Path | None:
    """Return the folder to which the TPU compiler of this process writes schedules; None: the user set other flags.

    To be called before libtpu is loaded.
    """
    flags = os.environ.get(VARIABLE)
    if flags is None:
        folder = tempfile.mkdtemp(prefix="recurrax-schedules-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ[VARIABLE] = flags = FLAGS.format(folder)
    found = re.fullmatch(FLAGS.format("(.*)"), flags)
    return None if found is None else pathlib.Path(found[1])


def cycles_of_kernels(folder: pathlib.Path | None, names: set[str]) -> dict[str, float]:
    """Return the cycles of these kernels of the program compiled last, by the names of their instructions."""
    found = {}
    for file in sorted(folder.iterdir()) if folder is not None and names else ():
        match = FILE.match(file.name)
        if match is not None and match["name"] in names:
            found[match["name"]] = cycles(file.read_text())
    return found


def cycles(schedule: str) -> float:
    """Return the bundles that a kernel executes, each loop as often as it turns."""
    loops = [[0, 0.0, 1]]  # depth, bundles, turns; from the outermost to the innermost that is open

    def close(depth):
        while len(loops) > 1 and loops[-1][0] >= depth:
            level, bundles, turns = loops.pop()
            loops[-1][1] += bundles * max(turns - (COPIES if level == GRID else 0), 1)

    for line in schedule.splitlines():
        bundle = BUNDLE.match(line)
        if bundle is None:
            continue
        depth = len(bundle["depth"])
        if bundle["label"] == "LB":
            close(depth)
            loops.append([depth, 0.0, 1])
        own = next(loop for loop in reversed(loops) if loop[0] <= depth)
        own[1] += 1
        if (found := EXIT.search(line)) is not None:
            own[2] = int(found[1])
    close(1)
    return loops[0][1]
