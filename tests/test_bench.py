"""The benchmark: what is wrong is not timed, what is promised is reported, and what is unknown is refused."""

import dataclasses
import json

import jax
import pytest

from eval.bench import measure
from eval.bench.cli import Bench, main, resolve
from eval.bench.contestants import BENCHMARKS, DIAGONAL_SCAN, MATRIX_STATE, Contestant
from eval.bench.measure import BANDWIDTH, MATMUL, Row
from eval.bench.programs import compile_jax
from recurrax.ops import OPS

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

SMALL = ["--shape", "2,9,4", "--repeats", "2"]
FIELDS = {field.name for field in dataclasses.fields(Row)} | {"machine"}
TIMES = ("median_ms", "quartile_1_ms", "quartile_3_ms", "time_over_ours")
TRAFFIC, WORK = ("gb_per_s", "bandwidth_share"), ("gflop_per_s", "matmul_share")
RATES = {BANDWIDTH: (TRAFFIC, WORK), MATMUL: (WORK, TRAFFIC)}  # those that a row has, and those that it has not


def run(tmp_path, *args, benchmarks=BENCHMARKS):
    """The exit code and the rows of bench.jsonl."""
    code = main([*SMALL, "--workdir", str(tmp_path), *args], benchmarks)
    return code, [json.loads(line) for line in (tmp_path / "bench.jsonl").read_text().splitlines()]


def with_contestants(*contestants):
    """The table of `diagonal_scan` with these instead of its own."""
    return [dataclasses.replace(DIAGONAL_SCAN, contestants=contestants)]


def by_name(name):
    return next(contestant for contestant in DIAGONAL_SCAN.contestants if contestant.name == name)


def test_both_directions_are_reported_with_every_field(tmp_path, capsys):
    names = ["default", "sequential", "lax.scan"]
    code, rows = run(tmp_path, benchmarks=with_contestants(*map(by_name, names)))
    assert code == 0
    for direction in ("forward", "backward"):
        table = [row for row in rows if row["direction"] == direction]
        assert [row["contestant"] for row in table] == [*names, BANDWIDTH, MATMUL]
        for row in table:
            assert set(row) == FIELDS
            assert row["shape"] == [2, 9, 4]
            known, unknown = RATES.get(row["contestant"], ((*TRAFFIC, *WORK), ()))
            assert all(row[field] > 0 for field in (*TIMES, *known))
            assert all(row[field] is None for field in (*unknown, "reason"))
            assert row["repeats"] == 2
            assert row["quartile_1_ms"] <= row["median_ms"] <= row["quartile_3_ms"]
            assert row["ours"] == "default"
            assert {"cpu", "cores", "device", "jax", "jaxlib", "git"} == set(row["machine"])
            if row["status"] == "ok":
                assert row["compile_s"] > 0
                assert row["temp_mib"] >= 0
                assert max(row["oracle_error"], row["reference_error"]) <= row["tolerance"]
        assert table[0]["time_over_ours"] == 1
    assert (tmp_path / "bench-diagonal_scan-2x9x4-float32.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert f"jax {jax.__version__}" in printed
    assert "diagonal_scan forward+backward, B=2 T=9 D=4, float32" in printed
    assert all(printed.count(f"| {name}") >= 2 for name in names)


@pytest.mark.parametrize("dtype", ["complex64", "bfloat16"])
def test_contestants_are_right_in_other_dtypes(tmp_path, dtype):
    """One of our implementations and all others are right in the other dtypes as well."""
    code, rows = run(tmp_path, "--direction", "backward", "--dtype", dtype, "--implementation", "sequential")
    assert code == 0
    assert {row["dtype"] for row in rows} == {dtype}
    assert [row["contestant"] for row in rows] == ["sequential", "lax.scan", "lax.associative_scan", BANDWIDTH, MATMUL]
    assert {row["ours"] for row in rows} == {"sequential"}


def test_bench_compares_all_implementations_by_default():
    """All of our implementations are compared unless one is named."""
    names = [contestant.name for contestant in resolve(Bench(), BENCHMARKS)[1]]
    assert names[0] == "default"
    ours = {name for name, each in OPS["diagonal_scan"].implementations.items() if "cpu" in each.platforms}
    assert set(names) == {*ours, "default", "lax.scan", "lax.associative_scan"}


def wrong_value(a, x):
    return by_name("default").run(a, x).at[0, 5, 0].multiply(1.01)


def wrong_gradient(a, x):
    return by_name("default").run(jax.lax.stop_gradient(a), x)


def wrong_when_long(a, x):
    h = by_name("default").run(a, x)
    return h if x.shape[1] < 100 else h.at[:, 100:].set(0)


def wrong_shape(a, x):
    return by_name("default").run(a, x)[:, :1]


@pytest.mark.parametrize("planted", [wrong_value, wrong_gradient, wrong_when_long, wrong_shape])
def test_a_wrong_contestant_is_reported_and_not_timed(tmp_path, capsys, planted):
    benchmarks = with_contestants(by_name("default"), Contestant("planted", planted))
    code, rows = run(tmp_path, "--direction", "backward", "--shape", "1,128,4", benchmarks=benchmarks)
    assert code == 1
    ours, wrong, *_ = rows
    assert [row["status"] for row in rows] == ["ok", "wrong", "limit", "limit"]
    assert wrong["contestant"] == "planted"
    assert wrong["repeats"] == 0
    assert all(wrong[field] is None for field in (*TIMES, *TRAFFIC, *WORK))
    assert max(wrong["oracle_error"], wrong["reference_error"]) > wrong["tolerance"]
    assert all(ours[field] is not None for field in TIMES)
    assert "planted is wrong and was not timed" in capsys.readouterr().out


def test_forward_table_ignores_wrong_gradients(tmp_path):
    """A wrong gradient does not matter to the table of forward passes."""
    benchmarks = with_contestants(by_name("default"), Contestant("planted", wrong_gradient))
    code, rows = run(tmp_path, "--direction", "forward", benchmarks=benchmarks)
    assert code == 0
    assert rows[1]["status"] == "ok"


def test_wrong_reference_contestant_leaves_no_ratio(tmp_path):
    """When our implementation is wrong, the others are timed without a ratio."""
    benchmarks = with_contestants(Contestant("planted", wrong_value, ours=True), by_name("lax.scan"))
    code, rows = run(tmp_path, "--direction", "forward", benchmarks=benchmarks)
    assert code == 1
    assert rows[1]["median_ms"] > 0
    assert rows[1]["time_over_ours"] is None
    assert list(tmp_path.glob("*.png"))


def test_bench_skips_contestants_with_a_reason(tmp_path, capsys):
    """A contestant that refuses a size, and a foreign one that fails, are skipped with a reason."""

    def fails(run, direction, inputs):
        raise AssertionError("float32 is not supported")

    default = by_name("default")
    benchmarks = with_contestants(
        default,
        default._replace(name="large", ours=False, refuses=lambda sizes: f"{sizes} is too much"),
        default._replace(name="foreign", ours=False, start=fails),
        default._replace(name="absent", ours=False, is_here=lambda: False),
        Contestant("rough", wrong_value, start=lambda *args: compile_jax(*args), tolerance=0.1),
    )
    code, rows = run(tmp_path, "--direction", "forward", benchmarks=benchmarks)
    assert code == 0
    assert [row["status"] for row in rows] == ["ok", "skipped", "skipped", "ok", "limit", "limit"]
    assert (rows[1]["reason"], rows[1]["repeats"]) == ("(2, 9, 4) is too much", 0)
    assert rows[2]["reason"] == "AssertionError: float32 is not supported"
    assert "foreign was skipped: AssertionError: float32 is not supported" in capsys.readouterr().out


def test_who_takes_long_is_called_three_times_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "PATIENCE_S", 0.0)
    _, rows = run(tmp_path, "--direction", "forward", "--repeats", "5", benchmarks=with_contestants(by_name("default")))
    assert [row["repeats"] for row in rows] == [3, 3, 3]


@pytest.mark.parametrize("benchmark", MATRIX_STATE, ids=lambda benchmark: benchmark.op)
def test_matrix_state_contestants_are_right(benchmark):
    """All contestants of an op with matrix states are right."""
    # Other files test our chunked forms, which take as long to compile as all others together.
    config = Bench(op=benchmark.op, shape="1,10,1,4,4", implementation="reference")
    _, contestants, (sizes,), _ = resolve(config, BENCHMARKS)
    rows = measure.table(benchmark, contestants, sizes, "float32", "forward", repeats=1)
    assert [row.contestant for row in rows] == [*(contestant.name for contestant in contestants), BANDWIDTH, MATMUL]
    assert [row.contestant for row in rows if row.status != "ok"] == ["softmax attention", BANDWIDTH, MATMUL]
    other = rows[-3]
    assert (other.status, other.repeats) == ("other", 1)
    assert other.oracle_error is other.gb_per_s is other.gflop_per_s is None


def test_every_op_has_a_benchmark():
    assert {benchmark.op.split("/")[0] for benchmark in BENCHMARKS} == set(OPS)


OF_OPS = [benchmark for benchmark in BENCHMARKS if benchmark not in (DIAGONAL_SCAN, *MATRIX_STATE)]


@pytest.mark.parametrize("benchmark", OF_OPS, ids=lambda benchmark: benchmark.op)
def test_contestants_of_other_ops_are_right(benchmark):
    """Convolutions and ops of vector states, in outputs and gradients."""
    shape = ",".join(["1", "10", "3", "4", "1"][: len(benchmark.dims)])
    _, contestants, (sizes,), _ = resolve(Bench(op=benchmark.op, shape=shape), BENCHMARKS)
    rows = measure.table(benchmark, contestants, sizes, "float32", "backward", repeats=1)
    assert [row.contestant for row in rows if row.status != "ok"] == [BANDWIDTH, MATMUL]


@pytest.mark.parametrize("op", ["delta_rule/scalar", "dplr_rule/channel"])
def test_bench_gradients_follow_argument_order(tmp_path, op):
    """Gradients of matrix states are compared in the order of the arguments."""
    (benchmark,) = [benchmark for benchmark in MATRIX_STATE if benchmark.op == op]
    scan = [contestant for contestant in benchmark.contestants if contestant.name == "lax.scan"]
    args = ["--op", op, "--shape", "1,5,1,2,3", "--direction", "backward"]
    code, rows = run(tmp_path, *args, benchmarks=[dataclasses.replace(benchmark, contestants=scan)])
    assert code == 0
    assert rows[0]["status"] == "ok"
    assert (tmp_path / f"bench-{op.replace('/', '-')}-1x5x1x2x3-float32.png").exists()


def test_what_is_counted():
    by_op = {benchmark.op: benchmark for benchmark in MATRIX_STATE}
    sizes = (2, 3, 5, 7, 11)
    tokens, state = 2 * 3 * 5, 7 * 11
    operations = {op: benchmark.operations(sizes, "forward") for op, benchmark in by_op.items()}
    assert operations["linear_attention"] == operations["linear_attention/channel"] == 4 * tokens * state
    assert operations["delta_rule"] == 6 * tokens * state
    assert operations["delta_product/scalar"] == 10 * tokens * state
    assert operations["dplr_rule/channel"] == 8 * tokens * state
    assert by_op["delta_rule"].operations(sizes, "backward") == 3 * operations["delta_rule"]
    read, written = tokens * (7 + 7 + 11 + 1 + 1), tokens * 11
    assert by_op["delta_rule/scalar"].numbers_moved(sizes, "forward") == read + written
    assert by_op["delta_rule/scalar"].numbers_moved(sizes, "backward") == 3 * read + 2 * written


def test_the_associative_scan_runs_at_small_sizes_alone():
    (scan,) = [c for c in MATRIX_STATE[0].contestants if c.name == "lax.associative_scan"]
    assert scan.refuses((1, 1024, 4, 64, 64)) is None
    for _, sizes in MATRIX_STATE[0].shapes:
        assert "are the most it is given" in scan.refuses(sizes)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--op", "diagonal_scam", "unknown op 'diagonal_scam' (did you mean 'diagonal_scan'?); choose one of"),
        ("--op", "delta_product", "unknown op 'delta_product' (did you mean 'delta_product/scalar'?)"),
        ("--direction", "backwards", "(did you mean 'backward'?); choose one of 'forward', 'backward', 'both'"),
        ("--dtype", "float16", "choose one of 'float32', 'complex64', 'bfloat16'"),
        ("--implementation", "sequental", "(did you mean 'sequential'?); choose one of 'all', 'default', 'sequential'"),
        ("--shape", "bach", "unknown shape 'bach' (did you mean 'batch'?); choose one of 'all', 'batch'"),
        ("--shape", "8,2048", "shape must be 3 positive numbers B,T,D, or all, or one of batch = 8,2048,512"),
        ("--shape", "8,0,512", "got '8,0,512'"),
        ("--repeats", "0", "repeats must be at least 1, got 0"),
    ],
)
def test_what_is_unknown_is_refused_with_the_choices(capsys, flag, value, message):
    assert main([flag, value]) == 2
    assert message in capsys.readouterr().err


def test_a_file_is_no_working_directory(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--workdir", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_named_shapes_are_those_of_the_op():
    assert resolve(Bench(), BENCHMARKS)[2] == [(8, 2048, 512), (1, 16_384, 512), (1, 1024, 1024)]
    assert resolve(Bench(shape="long"), BENCHMARKS)[2] == [(1, 16_384, 512)]
    assert resolve(Bench(shape="3,4,5"), BENCHMARKS)[2] == [(3, 4, 5)]
