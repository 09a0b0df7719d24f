"""A run in pieces is the run in one go, to the last bit, however the pieces ended."""

import os
import signal

import pytest

from runs import INTERRUPTED, assert_same_run, at_batch, checkpoints, command, metrics, saved_state, small
from train import session
from train.loop import Outcome, train

pytestmark = pytest.mark.usefixtures("compiled_once")


def tiny(workdir, text, steps):
    return ["tiny", "--workdir", workdir, "--steps", steps, "--data.path", text, "--mesh.data", 1]


@pytest.fixture(scope="module")
def tiny_run(text, tmp_path_factory):
    """`python -m train tiny` to its end in one process."""
    path = tmp_path_factory.mktemp("tiny") / "run"
    done = command("-m", "train", *tiny(path, text, 40))
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["step"] for row in metrics(path)] == list(range(1, 41))
    assert [row["step"] for row in metrics(path) if "validation_loss" in row] == [20, 40]
    return path


def test_killed_again_and_again(tmp_path, text, tiny_run):
    """Each process dies at another moment and the next one goes on; after all that it is the run in one go."""

    def run(module, name, count, number):
        return command("-c", INTERRUPTED, module, name, count, int(number), *tiny(tmp_path, text, 40))

    file = tmp_path / "metrics.jsonl"
    for module, name, count, there in (
        ("train.sharding", "to_devices", 7, []),  # mid-steps, before the first checkpoint
        ("train.checkpoint", "ocp.save_async", -1, []),  # the first checkpoint has just begun to be written
        ("train.checkpoint_check", "seal", 2, [10]),  # the second one is written, but has no checksums yet
    ):
        done = run(module, name, count, signal.SIGKILL)
        assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
        # What was renamed in the background before the kill is a matter of chance; at least these are there.
        assert set(there) <= set(checkpoints(tmp_path)), (name, checkpoints(tmp_path))
        if file.exists() and file.read_bytes():
            os.truncate(file, len(file.read_bytes()) - 9)  # a kill in the midst of a line
    assert checkpoints(tmp_path) == [10]

    done = command("-m", "train", *tiny(tmp_path, text, 40))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Going on from step 10 " in done.stdout
    assert_same_run(tmp_path, tiny_run)
    assert not [name for name in os.listdir(tmp_path / "checkpoints") if not name.isdecimal()]


def test_stopped_at_every_step(tmp_path, text, small_run, monkeypatch):
    """A SIGTERM in every step, at checkpoints and evaluations too: each call makes one step and saves it."""
    for step in range(1, 13):
        with monkeypatch.context() as patch:
            at_batch(patch, step, lambda batch: os.kill(os.getpid(), signal.SIGTERM))
            outcome = train(small(text), str(tmp_path))
        assert outcome == Outcome(step, interrupted=step < 12)
        assert checkpoints(tmp_path)[-1] == step
        if step == 12:
            break
    assert "validation_loss" not in metrics(tmp_path)[-1]  # nobody was there to wait for it
    train(small(text), str(tmp_path))
    assert_same_run(tmp_path, small_run)


def test_stopped_before_the_first_step(tmp_path, text, monkeypatch, capfd):
    init_state = session.init_state

    def stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return init_state(*arguments)

    monkeypatch.setattr(session, "init_state", stop)
    assert train(small(text), str(tmp_path)) == Outcome(0, interrupted=True)
    assert "Stopped by a signal: there was no step to save yet" in capfd.readouterr().out
    assert (checkpoints(tmp_path), metrics(tmp_path)) == ([], [])


def assert_same_end(path, small_run, steps):
    """The same last state to the last bit, and the rows that the small run has for these steps."""
    assert metrics(path) == [row for row in metrics(small_run) if row["step"] in steps]
    assert saved_state(path) == saved_state(small_run)


@pytest.mark.parametrize(
    ("step", "log_every", "steps"),
    [(5, 1, range(1, 13)), (5, 4, [4, 5, 8, 10, 12]), (12, 1, range(1, 13))],
    ids=["in a row", "between rows", "at the end"],
)
def test_an_evaluation_cut_short_is_made_up_for(tmp_path, text, small_run, monkeypatch, capfd, step, log_every, steps):
    config = small(text, log__every=log_every)
    make_evaluator, evaluated = session.make_evaluator, iter([5, 10, 12])

    def stopping(*arguments, **options):
        evaluate = make_evaluator(*arguments, **options)

        def stopped(params, documents, max_batches, should_stop):
            now, asked = next(evaluated), iter([False, True])

            def ask():
                """Before the second batch of the evaluation the signal comes."""
                if next(asked) and now == step:
                    os.kill(os.getpid(), signal.SIGTERM)
                return should_stop()

            return evaluate(params, documents, max_batches, ask)

        return stopped

    with monkeypatch.context() as patch:
        patch.setattr(session, "make_evaluator", stopping)
        train(config, str(tmp_path))
    assert checkpoints(tmp_path)[-1] == step
    last = metrics(tmp_path)[-1]
    assert last["step"] == step
    assert "validation_loss" not in last
    capfd.readouterr()
    train(config, str(tmp_path))
    assert f"step {step:>6}  held out" in capfd.readouterr().out
    assert_same_end(tmp_path, small_run, steps)


def test_fewer_steps_than_there_are(tmp_path, text, small_run, capfd):
    before = saved_state(small_run), metrics(small_run), checkpoints(small_run)
    outcome = train(small(text, steps=7), str(small_run))
    assert outcome == Outcome(12, interrupted=False)
    assert "Nothing to do: the run is at step 12 and --steps is 7" in capfd.readouterr().out
    assert (saved_state(small_run), metrics(small_run), checkpoints(small_run)) == before
    train(small(text), str(small_run))
    assert (saved_state(small_run), metrics(small_run), checkpoints(small_run)) == before


class Stop(Exception):
    """Ends a run in the midst of a step, as an error would."""


def test_pieces_cut_between_rows_checkpoints_and_evaluations(tmp_path, text, small_run):
    def stop_here(batch):
        raise Stop

    for step in (2, 7, 11):
        with pytest.MonkeyPatch.context() as patch:
            at_batch(patch, step, stop_here)
            with pytest.raises(Stop):
                train(small(text, log__every=3, checkpoint__keep=2), str(tmp_path))
    train(small(text, log__every=3, checkpoint__keep=2), str(tmp_path))
    assert checkpoints(tmp_path) == [8, 12]
    assert_same_end(tmp_path, small_run, [3, 5, 6, 9, 10, 12])


@pytest.mark.parametrize("damage", ["flip", "missing"])
def test_damaged_newest_checkpoint_falls_back(tmp_path, text, small_run, damage, capfd):
    """A damaged newest checkpoint costs only the steps since the one before."""
    train(small(text, steps=9), str(tmp_path))
    assert checkpoints(tmp_path) == [4, 8, 9]
    newest = tmp_path / "checkpoints" / "9"
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    if damage == "flip":
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
    else:
        largest.unlink()
    capfd.readouterr()
    train(small(text), str(tmp_path))
    out = capfd.readouterr().out
    assert "The checkpoint of step 9 is damaged and cannot be used" in out
    assert f"Moved the damaged checkpoint of step 9 to {tmp_path}/checkpoints/corrupt-9-1" in out
    assert "Going on from step 8" in out
    # The piece that ended at step 9 evaluated there; going back to step 8 drops that row and makes it again.
    assert_same_end(tmp_path, small_run, range(1, 13))
