"""The README and the pages of docs/: their examples run, and everything that they name exists."""

import contextlib
import dataclasses
import importlib
import io
import pathlib
import re

import pytest

from eval.__main__ import COMMANDS
from eval.compare import models
from recurrax import mixers, projections
from train import presets
from train.__main__ import Command

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = {"lib", "train", "eval", "docs", "tests", "notebooks", "recurrax"}
BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)


def examples(text):
    """Return the blocks marked runnable, after as many empty lines as put them on their line of the page."""
    found = [match for match in BLOCK.finditer(text) if match[1] == "python runnable"]
    return ["\n" * text.count("\n", 0, match.start(2)) + match[2] for match in found]


def anchors(text):
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page, text):
    """Yield the relative links and pictures that lead nowhere."""
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if "://" not in target and not (file.exists() and (not anchor or anchor in anchors(file.read_text()))):
            yield target


def missing_paths(text):
    """Yield the paths in code spans that do not exist; a page creates those that are the first line of a block."""
    created = set(re.findall(r"^```.*\n# (\S+/\S+)$", text, re.MULTILINE))
    for span in re.findall(r"`([\w./-]+/[\w./-]*)`", BLOCK.sub("", text)):
        path = f"lib/{span}" if span.startswith("recurrax/") else span
        if span.split("/")[0] in FOLDERS and span not in created and not (ROOT / path).exists():
            yield span


def wrong_commands(text):
    """Yield the command lines whose preset, command, target or flags the programs do not have."""
    for line in re.findall(r"^    (?:.*?)(python -m \w+.*|make \w+)", text, re.MULTILINE):
        program, *words = line.split("#")[0].split("'")[0].removeprefix("python -m ").split()
        flags = [word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")]
        if program == "make":
            known = f"\n{words[0]}:" in (ROOT / "Makefile").read_text()
        elif program == "train":
            settings = presets.default(), Command(presets.default())
            known = not words or words[0].split(":")[0] in {*presets.PRESETS, "PRESET"} or ".py:" in words[0]
            known &= all(any(has(config, flag) for config in settings) for flag in flags if flag not in OTHER)
        elif program == "eval":
            module = importlib.import_module(COMMANDS[words[0]][0]) if words and words[0] in COMMANDS else None
            names = {field.name for cls in vars(module or object).values() for field in fields(cls)}
            known = module is not None and all(flag in names for flag in flags)
        else:
            known = program in ("pip", "pytest", "ruff", "venv")
        if not known:
            yield line


OTHER = ("help", "SETTING")


def has(config, flag):
    """Return whether the dotted name of a flag is a field of the config."""
    first, _, rest = flag.partition(".")
    first = first if rest else first.removeprefix("no_")  # --no-packed is packed=False
    return hasattr(config, first) and (not rest or has(getattr(config, first), rest))


def fields(cls):
    """Return the fields of a dataclass, none of anything else."""
    return dataclasses.fields(cls) if isinstance(cls, type) and dataclasses.is_dataclass(cls) else ()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_names_what_exists_and_runs(page):
    """Links, paths and commands exist; the blocks marked runnable run, one after the other, without a warning."""
    text = page.read_text()
    assert not list(broken_links(page, text))
    assert not list(missing_paths(text))
    assert not list(wrong_commands(text))
    assert not re.search("@@|TODO", BLOCK.sub("", text))
    namespace = {"__name__": f"docs.{page.stem}"}
    with contextlib.redirect_stdout(io.StringIO()):
        for example in examples(text):
            exec(compile(example, str(page), "exec"), namespace)


def test_readme_is_short_and_links_all_pages():
    """The README has at most 120 lines, an example of ten, and a link to every page that is not behind another."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    (example,) = examples(text)
    assert len([line for line in example.splitlines() if line and not line.startswith(("import", "from"))]) <= 10
    behind = set(re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs/evidence.md").read_text()))
    linked = set(re.findall(r"\]\(docs/(\w+\.md)\)", text))
    assert linked | behind == {page.name for page in PAGES if page.parent != ROOT}


def test_mixer_page_lists_the_compared_mixers():
    """docs/mixers.md has a row for each mixer that docs/comparison.md compares, and none that is not exported."""
    text = (ROOT / "docs/mixers.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    compared = set(re.findall(r"^\| (\w+) \|", (ROOT / "docs/comparison.md").read_text(), re.MULTILINE))
    assert listed <= set(mixers.__all__) | set(projections.__all__)
    assert listed & set(mixers.__all__) == compared & (models.PATTERNS.keys() - models.HYBRIDS.keys())
