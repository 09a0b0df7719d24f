"""The README's examples run, and what it names is there."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_examples_give_the_same_in_one_go_and_in_pieces():
    model, hybrids, probe, op = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert all(len([line for line in example.splitlines() if line.strip()]) <= 11 for example in (model, probe, op))
    check = "\nimport numpy as np\nnp.testing.assert_allclose(np.concatenate([head, tail], 1), {}, atol=1e-4)\n"
    program = model + check.format("logits") + probe + hybrids + op + check.format("o")
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)


def test_every_folder_and_make_target_that_it_names_exists():
    tree = TEXT.split("## The tree")[1].split("Arrows")[0]
    names = re.findall(r"^    (\S+/)\s", tree, flags=re.MULTILINE)
    assert {"lib/recurrax/", "train/", "eval/", "notebooks/", "tests/"} <= set(names)
    assert all((ROOT / name).is_dir() for name in names)
    inner = re.findall(r"^      (\S+)\s", tree, flags=re.MULTILINE)
    assert all((ROOT / "lib/recurrax" / name).exists() for name in inner)
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in re.findall(r"make (\w+)  ", TEXT))


def test_no_placeholder_is_left():
    assert "@@" not in TEXT
    assert "TODO" not in TEXT
