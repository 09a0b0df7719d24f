"""The notebooks run from top to bottom, and are committed with what they print."""

import os
import pathlib
import subprocess
import sys

import nbformat
import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

# In a process of its own: the kernel client's own warnings are not ours to mend.
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def texts(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs), outputs


def test_there_is_a_notebook():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    _, outputs = texts(notebook)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_keeps_its_promise(path, tmp_path):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    # A notebook trains: there, programs that are optimized somewhat are worth their compilation.
    environment["XLA_FLAGS"] = (
        environment["XLA_FLAGS"]
        .replace("optimization_level=0", "optimization_level=1")
        .replace("--xla_llvm_disable_expensive_passes=true", "")
    )
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(path), str(tmp_path / "run.ipynb")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed, outputs = texts(nbformat.read(tmp_path / "run.ipynb", as_version=4))
    assert not [output for output in outputs if output.get("name") == "stderr"], printed
    if path.stem == "quickstart":
        right = float(printed.split("symbols right ")[1].split()[0])
        assert right > 0.95  # it has learnt the task; guessing is 0.125
    if path.stem == "finetune_and_adapt":
        assert float(printed.split("LoRA has ")[1].split()[0]) > 0.5
        lora, again = (float(printed.split(name)[1].split(" bits")[0].split()[-1]) for name in ("LoRA ", "read back:"))
        assert lora == pytest.approx(again, abs=0.002)
    if path.stem == "what_the_state_remembers":
        assert float(printed.split("symbols right ")[1].split()[0]) > 0.95
        near, _, inside, real = (
            float(line.split("mean error ")[1]) for line in printed.splitlines() if "mean error" in line
        )
        # A ring near the unit circle keeps what a smaller one, or one without phases, has lost.
        assert near < 1e-6 < 0.1 < min(inside, real)
