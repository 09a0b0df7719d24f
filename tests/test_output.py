"""Printed text: any character on any encoding, and a reader that goes away."""

import io
import os
import subprocess
import sys

import pytest

from runs import ROOT
from train.cli import robust_output, user_errors


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-8", "aé€😀│".encode() + b"\\udcff"),
        ("cp1252", b"a\xe9\x80\\U0001f600\\u2502\\udcff"),
        ("ascii", b"a\\xe9\\u20ac\\U0001f600\\u2502\\udcff"),
    ],
)
def test_output_escapes_characters_it_lacks(monkeypatch, encoding, written):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    with robust_output():
        print("aé€😀│" + os.fsdecode(b"\xff"), end="")  # a file name is bytes
    assert out.buffer.getvalue() == written


OURS = str(ROOT / "eval" / "program.py")
"""A file whose errors `user_errors` takes for errors of the input."""


def prints(flush: bool) -> None:
    with robust_output(), user_errors():
        exec(compile(f"print('text', flush={flush})", OURS, "exec"))


def prints_and_exits(flush: bool) -> None:
    with robust_output(), user_errors():
        exec(compile(f"print('text', flush={flush}); raise SystemExit(0)", OURS, "exec"))


@pytest.mark.parametrize("program", [prints, prints_and_exits])
@pytest.mark.parametrize("flush", [True, False])
def test_closed_pipe_ends_a_program_quietly(monkeypatch, capfd, program, flush):
    """The program notices while it prints, or at its end."""
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patch, open(writer, "w") as out:
        patch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit, match="1"):
            program(flush)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("words", [["eval", "--help"], ["train", "--help"]])
def test_programs_end_quietly_at_a_closed_pipe(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
