"""Damaged checkpoints are always noticed, reported, and never used or lost."""

import os
import subprocess

import pytest

from support.checkpointing import abstract, assert_same, bits, files
from train import checkpoint_check
from train.checkpoint import CheckpointConfig, Checkpointer, DamagedCheckpointError


def damages(content: bytes):
    """(name, new content or None for deletion)."""
    yield "deleted", None
    if content:
        yield "emptied", b""
        yield "halved", content[: len(content) // 2]
        yield "last byte cut", content[:-1]
        for position in {0, len(content) // 3, len(content) - 1}:
            yield (
                f"bit flipped at {position}",
                (content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]),
            )
        yield "line end appended", content + b"\n"
        yield "letter appended", content + b"x"


def test_every_damage_to_every_file_is_noticed(checkpoints, state_100):
    newest, unnoticed, cases = checkpoints / "200", [], 0
    target = abstract(state_100)
    for name, content in files(newest).items():
        for kind, damaged in damages(content):
            cases += 1
            if damaged is None:
                (newest / name).unlink()
            else:
                (newest / name).write_bytes(damaged)
            messages = []
            with Checkpointer(checkpoints, CheckpointConfig(), messages.append) as checkpointer:
                restored = checkpointer.restore(target)
                fallen_back = checkpointer.restored_step == 100
            aside = checkpoints / "corrupt-200-1"
            if not (fallen_back and aside.is_dir() and "step 200 is damaged" in messages[0]):
                unnoticed.append(f"{name} {kind}: {messages}")
            else:
                assert bits(restored.params["embedding"]) == bits(state_100.params["embedding"])
                assert files(aside).get(name) == damaged  # the evidence is kept as it was found
                os.rename(aside, newest)
            (newest / name).write_bytes(content)
    assert not unnoticed
    assert cases > 60
    assert checkpoint_check.damage(newest) == []


def test_checksums_that_lost_their_last_lines(checkpoints):
    sums = checkpoints / "200" / "SHA256SUMS"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:-2]))
    assert len(checkpoint_check.damage(checkpoints / "200")) == 2


def test_checksums_are_those_of_sha256sum(checkpoints):
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=checkpoints / "200", check=True)


def test_unreadable_file_is_not_always_damage(checkpoints, monkeypatch):
    """A bad sector is damage; a missing permission is not."""

    def failing(number):
        def read(path, *, sync=False):
            raise OSError(number, os.strerror(number))

        return read

    monkeypatch.setattr(checkpoint_check, "_sha256", failing(5))
    assert "cannot be read: Input/output error" in checkpoint_check.damage(checkpoints / "200")[0]
    monkeypatch.setattr(checkpoint_check, "_sha256", failing(13))
    with pytest.raises(PermissionError):
        checkpoint_check.damage(checkpoints / "200")


def test_same_step_can_be_saved_after_moving_aside(checkpoints, state_200):
    with Checkpointer(checkpoints, CheckpointConfig(), lambda message: None) as checkpointer:
        for number in (1, 2):
            (checkpoints / "200" / "state" / "_METADATA").write_text("{}")
            checkpointer.restore(abstract(state_200))
            checkpointer.save(200, state_200, wait=True)
            assert (checkpoints / f"corrupt-200-{number}").is_dir()
            assert checkpointer.steps == (100, 200)
            assert_same(checkpointer.restore(abstract(state_200)), state_200)


def test_all_damaged_is_an_error_at_every_start(checkpoints, state_200):
    for step in (100, 200):
        (checkpoints / str(step) / "state" / "manifest.ocdbt").unlink()
    before = files(checkpoints)
    for _ in range(2):  # a second start must not take the checkpoints for a new one
        messages = []
        with Checkpointer(checkpoints, CheckpointConfig(), messages.append) as checkpointer:
            with pytest.raises(
                DamagedCheckpointError, match=r"(?s)/200: state/manifest.ocdbt is missing\n.*/100: state"
            ):
                checkpointer.restore(abstract(state_200))
            assert checkpointer.steps == (100, 200)
    assert files(checkpoints) == before


def test_asked_for_a_damaged_step(checkpoints, state_200):
    (checkpoints / "200" / "record.json").unlink()
    before = files(checkpoints)
    with (
        Checkpointer(checkpoints, CheckpointConfig(), lambda message: None) as checkpointer,
        pytest.raises(DamagedCheckpointError, match="record.json is missing"),
    ):
        checkpointer.restore(abstract(state_200), step=200)
    assert files(checkpoints) == before


def test_evaluation_moves_nothing(checkpoints, state_100):
    """Another run may be saving here: no damaged checkpoint is moved, no unfinished save removed."""
    (checkpoints / "200" / "record.json").unlink()
    (checkpoints / "writing-300").mkdir()
    (checkpoints / "writing-300" / "data").write_text("")
    before = files(checkpoints)
    with Checkpointer(checkpoints, CheckpointConfig(), lambda message: None) as checkpointer:
        assert_same(checkpointer.restore_params(), state_100.params)
        assert checkpointer.restored_step == 100
    assert files(checkpoints) == before


def test_damaged_record_is_not_pruned_and_stops_nothing(checkpoints, state_200):
    record = checkpoints / "100" / "record.json"
    record.write_text(record.read_text().replace('"held_out": {}', '"held_out": {"loss": 9.5}'))
    messages = []
    with Checkpointer(checkpoints, CheckpointConfig(keep=1), messages.append) as checkpointer:
        checkpointer.save(300, state_200, wait=True)
        assert checkpointer.steps == (100, 300)
    assert "step 100 is damaged" in messages[0]
