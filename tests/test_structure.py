"""What holds of the tree as a whole: who imports whom, what is shipped, and style."""

import ast
import importlib
import pathlib
import pkgutil
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LIBRARY = ROOT / "lib" / "recurrax"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NEEDED = {"jax", "flax", "jaxtyping"}


def python(*arguments):
    """Runs this interpreter at the root of the tree; its output, and an error that shows it."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{arguments} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def imports(path):
    """Top-level modules that a file imports, anywhere in it, other than Python's own."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: line {node.lineno} imports relatively"
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names


def modules(package):
    """Dotted names of a package's modules, without programs (`__main__`), which are not for import."""
    folder = LIBRARY if package == "recurrax" else ROOT / package
    names = [path.relative_to(folder.parent).with_suffix("") for path in sorted(folder.rglob("*.py"))]
    return [".".join(name.parts).removesuffix(".__init__") for name in names if name.name != "__main__"]


def test_arrows_between_the_layers_run_one_way():
    python("-c", "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())")


def test_library_imports_only_declared_packages():
    """The library imports no packages but those it declares."""
    for path in LIBRARY.rglob("*.py"):
        allowed = {"recurrax", "numpy", "ml_dtypes"}  # the last two come with jax
        if path.is_relative_to(LIBRARY / "pretrained"):
            allowed |= {"safetensors", "tokenizers"}  # where they are used, not at import: the next test
        if path == LIBRARY / "tasks" / "digits.py":
            allowed |= {"sklearn", "tensorflow_datasets"}  # the same
        foreign = imports(path) - NEEDED - allowed
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_library_import_loads_only_its_dependencies():
    """Importing the library loads nothing beyond what its dependencies load themselves."""
    # Flax itself loads optax and orbax, so they cannot be blocked; what counts is what comes on top.
    out = python(
        "-c",
        f"""
import importlib, sys
import jax, jax.numpy, flax.linen, jaxtyping
import wadler_lindig  # jaxtyping needs it, and loads it where it first prints a shape
def top(): return {{name.partition(".")[0] for name in sys.modules}}
before = top()
for name in {modules("recurrax")}: importlib.import_module(name)
print(sorted(top() - before - set(sys.stdlib_module_names)))
""",
    )
    assert out.strip() == "['recurrax']"


@pytest.mark.parametrize("package", ["recurrax", "train", "eval"])
def test_imports_raise_no_deprecation_warnings(package):
    """Importing our modules raises no deprecation warning of their dependencies."""
    # What others' files warn about is not ours to mend: only warnings that point at a file of this tree count.
    out = python(
        "-c",
        f"""
import importlib, pathlib, warnings
root, folders = pathlib.Path({str(ROOT)!r}), ("lib", "train", "eval")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for name in {modules(package)}: importlib.import_module(name)
def ours(path): return root in path.parents and path.relative_to(root).parts[0] in folders
for w in caught:
    if issubclass(w.category, (DeprecationWarning, PendingDeprecationWarning, FutureWarning)):
        if ours(pathlib.Path(w.filename).resolve()): print(w.filename, w.lineno, w.category.__name__, w.message)
""",
    )
    assert out.strip() == ""


def test_style():
    python("-m", "ruff", "check", ".")
    python("-m", "ruff", "format", "--check", ".")


def test_the_wheel_holds_the_library_alone():
    # setuptools takes the packages that `find` names: those with an __init__.py, down from `where`.
    find = PYPROJECT["tool"]["setuptools"]["packages"]["find"]
    assert find == {"where": ["lib"], "include": ["recurrax*"]}
    assert not any(key in PYPROJECT["tool"]["setuptools"] for key in ("py-modules", "package-data", "data-files"))
    packages = {path.parent.relative_to(ROOT / "lib").as_posix() for path in (ROOT / "lib").rglob("__init__.py")}
    assert {name.split("/")[0] for name in packages} == {"recurrax"}
    for path in LIBRARY.rglob("*.py"):
        assert path.parent.relative_to(ROOT / "lib").as_posix() in packages, f"{path} has no __init__.py beside it"


def test_what_is_imported_is_declared():
    names = {"orbax": "orbax-checkpoint", "tensorflow_datasets": "tensorflow-datasets", "array_record": "array-record"}
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    lines = [*PYPROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    declared = {re.split(r"[\[<>=;~! ]", line)[0] for line in lines}
    assert declared >= NEEDED
    come_along = {"numpy", "jaxlib"}
    for folder in ("train", "eval"):
        for path in (ROOT / folder).rglob("*.py"):
            used = {names.get(name, name) for name in imports(path)}
            undeclared = used - declared - come_along - {"recurrax", "train", "eval"}
            assert not undeclared, f"{path.relative_to(ROOT)} imports {sorted(undeclared)}"


def test_the_version_is_one():
    version = re.search(r'^__version__ = "(.+)"$', (LIBRARY / "__init__.py").read_text(), re.MULTILINE)[1]
    assert version == PYPROJECT["project"]["version"]


def test_the_oracles_share_no_code_with_the_library():
    for path in (*(ROOT / "eval" / "oracles").rglob("*.py"), *(ROOT / "tests" / "oracles").rglob("*.py")):
        assert imports(path) <= {"numpy", "oracles", "eval"}, path
        assert not re.search(r"^(from|import) eval(?!\.oracles\.)", path.read_text(), re.MULTILINE), path


def test_licence_is_the_one_the_package_names():
    project = PYPROJECT["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert "END OF TERMS AND CONDITIONS" in text


def test_no_function_hides_the_module_of_its_name():
    for package in ("recurrax", "train", "eval"):
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            module = importlib.import_module(found.name) if not found.name.endswith("__main__") else None
            parent, _, leaf = found.name.rpartition(".")
            attribute = getattr(sys.modules[parent], leaf, module)
            assert module is None or attribute is module, f"{found.name} is hidden by {attribute!r}"
