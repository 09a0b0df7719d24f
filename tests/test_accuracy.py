"""The accuracy page: its oracles are right, it holds every cell, and a wrong digit does not pass."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import oracles
from eval.__main__ import main as eval_main
from eval.accuracy import bars
from eval.accuracy.cases import CASES, SIZES
from eval.accuracy.cli import Accuracy, main, resolve
from eval.accuracy.measure import NOTHING, Row, error
from eval.accuracy.regimes import EQUAL_KEYS, LONG, MIXTURE, ONE, REGIMES, SAME_KEY, ZERO_KEYS
from recurrax.ops import OPS

B, T, H, K, V = 2, 5, 2, 3, 2
MATRIX_OPS = ("linear_attention", "delta_rule", "delta_product", "dplr_rule")


def by_name(op):
    return next(case for case in CASES if case.op == op)


def draw(op, decay, rng):
    """Tiny inputs: two queries per state, K and V not equal, resets, and a scale of its own."""
    steps = (2,) if op == "delta_product" else ()
    shapes = {"q": (B, T, 2 * H, K), "k": (B, T, *steps, H, K), "v": (B, T, *steps, H, V), "state": (B, H, K, V)}
    if op.startswith("delta"):
        shapes["beta"] = (B, T, *steps, H)
    if op == "dplr_rule":
        shapes |= {"a": (B, T, H, K), "b": (B, T, H, K)}
    inputs = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    if decay != "none":
        inputs["log_decay"] = -np.exp(rng.standard_normal((B, T, H) if decay == "scalar" else (B, T, H, K)))
    reset = np.zeros((B, T), bool)
    reset[0, 2] = reset[1, [0, 3]] = True
    return inputs, {"reset": reset, "scale": 0.7}, (rng.standard_normal((B, T, 2 * H, V)), shapes["state"])


@pytest.mark.parametrize("decay", ["none", "scalar", "channel"])
@pytest.mark.parametrize("op", MATRIX_OPS)
def test_gradients_of_the_oracles_are_finite_differences(op, decay):
    rng = np.random.default_rng(0)
    inputs, options, (d_o, shape) = draw(op, decay, rng)
    reset, scale = options["reset"], options["scale"]

    def run(x, cotangents=None):
        return getattr(oracles, op)({**x, "reset": reset}, scale, cotangents)

    check_differences(run, inputs, (d_o, rng.standard_normal(shape)), rng)


def vector_cases():
    """Return (op, inputs, whether it takes resets) by name."""
    rng = np.random.default_rng(1)

    def normal(*shape):
        return rng.standard_normal(shape)

    def complex_normal(*shape):
        return normal(*shape) + 1j * normal(*shape)

    n, m, w = 4, 2, 3
    system = {"x": normal(B, T, K), "b": normal(K, n), "c": normal(K, m, n), "state": normal(B, K, n)}
    tokens = {"x": normal(B, T, K), "state": normal(B, w - 1, K)}
    return {
        "diagonal": ("diagonal_scan", {"a": normal(B, T, K), "x": normal(B, T, K), "h0": normal(B, K)}, True),
        "diagonal, complex": ("diagonal_scan", {"a": complex_normal(K), "x": complex_normal(B, T, K)}, True),
        "selective": (
            "selective_scan",
            {
                **{"x": normal(B, T, K), "dt": np.exp(normal(B, T, K)), "a": -np.exp(normal(K, n))},
                **{"b": normal(B, T, n), "c": normal(B, T, n), "state": normal(B, K, n)},
            },
            True,
        ),
        "state space": ("state_space", {**system, "a": -np.exp(normal(K, n))}, True),
        "state space, complex": (
            "state_space",
            {
                **{"x": normal(B, T, K), "a": -np.exp(normal(K, n)) + 1j * normal(K, n)},
                **{"b": complex_normal(K, n), "c": complex_normal(K, m, n), "state": complex_normal(B, K, n)},
            },
            True,
        ),
        "state space, dense": ("state_space", {**system, "a": 0.3 * normal(K, n, n)}, True),
        "short convolution": ("causal_conv1d", {**tokens, "kernel": normal(w, K), "bias": normal(K)}, True),
        "long convolution": ("long_convolution", {**tokens, "kernel": normal(K, m, w)}, False),
        "long convolution, shared": ("long_convolution", {"x": normal(B, T, K), "kernel": normal(1, T)}, False),
    }


VECTOR_CASES = vector_cases()


@pytest.mark.parametrize("case", VECTOR_CASES)
def test_oracle_gradients_of_vector_ops_are_differences(case):
    op, inputs, takes_reset = VECTOR_CASES[case]
    rng = np.random.default_rng(2)
    options = {"reset": np.arange(B * T).reshape(B, T) % 4 == 2} if takes_reset else {}

    def run(x, cotangents=None):
        return getattr(oracles, op)({**x, **options}, cotangents=cotangents)

    outputs, last, _ = run(inputs)
    cotangents = [
        rng.standard_normal(v.shape) + (1j * rng.standard_normal(v.shape) if np.iscomplexobj(v) else 0)
        for v in (outputs, last)
    ]
    check_differences(run, inputs, cotangents, rng)


def check_differences(run, inputs, cotangents, rng):
    """Along random directions of each input, the weighted sum of the outputs changes as the gradients say."""
    _, _, gradients = run(inputs, cotangents)
    assert set(gradients) == set(inputs)

    def loss(name, change):
        outputs = run({**inputs, name: inputs[name] + change})[:2]
        return sum((weight * value).sum().real for weight, value in zip(cotangents, outputs, strict=True))

    for name, value in inputs.items():
        assert gradients[name].shape == value.shape
        for _ in range(3):
            step = 1e-5 * rng.standard_normal(value.shape)
            step = step + 1j * 1e-5 * rng.standard_normal(value.shape) if np.iscomplexobj(value) else step
            got, want = (gradients[name] * step).sum().real, (loss(name, step) - loss(name, -step)) / 2
            assert abs(got - want) <= 1e-8 * abs(step).sum(), name


def test_the_delta_oracles_are_one_another():
    inputs, options, _ = draw("delta_rule", "channel", np.random.default_rng(2))
    o, state, _ = oracles.delta_rule({**inputs, **options})
    dplr = {n: inputs[n] for n in ("q", "log_decay", "state")} | options
    strength = inputs["beta"][..., None]
    # b_t k_t (v_t - S^T k_t)^T reads after the decay, what dplr_rule does before: fold the decay into a.
    dplr |= {"k": strength * inputs["k"], "v": inputs["v"], "b": -strength * inputs["k"]}
    dplr["a"] = np.where(options["reset"][..., None, None], 0, np.exp(inputs["log_decay"])) * inputs["k"]
    same, same_state, _ = oracles.dplr_rule(dplr)
    np.testing.assert_allclose(same, o, rtol=1e-12)
    np.testing.assert_allclose(same_state, state, rtol=1e-12)


def test_errors_are_relative_unless_the_truth_vanishes():
    """Errors are relative to the truth, or to an absolute scale where the truth is zero."""
    want = np.array([3.0, 4.0])
    assert error(jnp.array([3.0, 4.5]), want) == pytest.approx(0.1)
    assert error(jnp.zeros(2), np.zeros(2)) == 0
    assert error(jnp.full(4, 1e-9), np.zeros(4)) == pytest.approx(1e-9 / NOTHING)
    assert error(jnp.array([jnp.nan, 4.0]), want) == float("inf")
    assert error(jnp.zeros((1, 2)), want) == float("inf")
    assert error(jnp.array([3.0, 4.0], jnp.complex64), np.array([3.0, 4.5j])) > 1


def test_regimes_are_what_they_say():
    rng = np.random.default_rng(3)
    assert len({regime.name for regime in REGIMES}) == len(REGIMES)
    for regime in REGIMES:
        gates = regime.gates(rng, (1, 4096, 2))
        assert (gates <= 0).all()
        assert np.isfinite(gates).all()
    gates = ONE.gates(rng, (1, 40, 2, 3))
    assert (gates == -1e4).sum() == 6
    gates = MIXTURE.gates(rng, (1, 4096, 2))
    assert {-300.0, -20.0, 0.0} <= set(gates.ravel())
    keys = EQUAL_KEYS.draw_keys(rng, (1, 2 * SAME_KEY, 2, H, K))
    np.testing.assert_allclose(np.linalg.norm(keys, axis=-1), 1)
    assert (keys[:, :SAME_KEY] == keys[:, :1, :1]).all()
    assert (keys[:, SAME_KEY:] == keys[:, SAME_KEY : SAME_KEY + 1, :1]).all()
    assert (keys[:, 0] != keys[:, -1]).all()
    assert not ZERO_KEYS.draw_keys(rng, (1, 9, H, K)).any()


def test_all_is_measured_by_default():
    todo = resolve(Accuracy(), CASES)
    assert {group.case.op for group in todo} == {case.op for case in CASES}
    assert {(group.length, regime is LONG) for group in todo for regime in group.regimes} == {
        (4096, False),
        (16_384, True),
    }
    for op in MATRIX_OPS:
        its = [group for group in todo if group.case.op == op]
        assert len(its) == 3 * 2 * 2  # decays, dtypes, lengths
        assert all(set(group.implementations) == set(OPS[op].implementations) for group in its)
    assert {g.variant for g in todo if g.case.op == "diagonal_scan" and g.dtype == "bfloat16"} == {"real", "constant"}
    for group in todo:
        names = {regime.name for regime in group.regimes}
        assert ("beta-2" in names) == (group.case.op.startswith("delta") and group.length == 4096)
        has_gates = "log_decay" in group.case.variants[group.variant]
        assert ("strong" in names) == (has_gates and group.length == 4096)


def cells(text, section):
    """The rows of a section's tables: by implementation, variant and regime, its numbers by column."""
    part = text.split(f"## {section}\n")[1].split("\n## ")[0]
    rows, names = {}, []
    for line in part.splitlines():
        cell = line.strip("| ").split(" | ")
        if cell[0] == "implementation":
            names = cell[3:]
        elif line.startswith("| ") and cell[0] != "---":
            rows[tuple(cell[:3])] = dict(zip(names, cell[3:], strict=True))
    return rows


def test_the_page_holds_every_cell(tmp_path):
    # Gates per channel are left out: their programs take the longest to compile.
    case = by_name("linear_attention")
    case = dataclasses.replace(case, variants={name: case.variants[name] for name in ("none", "scalar")})
    path = tmp_path / "docs" / "accuracy.md"
    args = ["--dtype", "float32", "--regime", "mild", "--length", "40", "--output", str(path)]
    assert main(args, [case]) == 0
    text = path.read_text()
    assert "All are held." in text
    assert f"python -m eval accuracy {' '.join(args)}" in text
    assert re.search(r"jax \S+, jaxlib \S+, (no )?commit", text)
    assert f"K = {SIZES['K']}" in text
    table = cells(text, "`linear_attention`, float32")
    assert set(table) == {(i, d, "mild") for i in case.implementations for d in ("none", "scalar")}
    for (_, decay, _), row in table.items():
        assert list(row) == ["outputs", "last state", "dq", "dk", "dv", "dlog_decay", "dstate"]
        assert (row.pop("dlog_decay") == "") == (decay == "none")
        assert all(1e-9 < float(number) < 2e-6 for number in row.values())
    summary = text.split("## The worst")[1].split("\n## ")[0]
    assert re.findall(r"^\| `linear_attention` \| float32 \| (\w+)", summary, re.MULTILINE) == list(
        case.implementations
    )


def test_the_command_measures_half_precision_at_the_longer_length(tmp_path):
    path = tmp_path / "accuracy.md"
    flags = ["--op", "diagonal_scan", "--dtype", "bfloat16", "--implementation", "sequential", "--regime", "long"]
    assert eval_main(["accuracy", *flags, "--long", "50", "--output", str(path)]) == 0
    table = cells(path.read_text(), "`diagonal_scan`, bfloat16")
    assert set(table) == {("sequential", variant, "long") for variant in ("real", "constant")}
    for row in table.values():
        assert list(row) == ["outputs", "last h0", "da", "dx", "dh0"]
        assert all(1e-4 < float(row[name]) < 4e-3 for name in ("outputs", "da", "dx"))  # their own rounding
        assert all(float(row[name]) < 2e-6 for name in ("last h0", "dh0"))
    assert "50 in the regime `long`" in path.read_text()


@pytest.mark.parametrize("op", ["selective_scan", "state_space", "long_convolution", "causal_conv1d"])
def test_every_variant_and_implementation_is_measured(tmp_path, op):
    """Also an implementation that refuses an incoming state, which is measured without one."""
    path, case = tmp_path / "accuracy.md", by_name(op)
    args = ["--op", op, "--dtype", "float32", "--regime", "mild", "--length", "40", "--output", str(path)]
    assert main(args) == 0
    table = cells(path.read_text(), f"`{op}`, float32")
    assert set(table) == {(i, v or "-", "mild") for i in case.implementations for v in case.variants}
    for (implementation, *_), row in table.items():
        assert ("dstate" in row) == (implementation not in case.without_state)
        assert all(float(number) < 2e-6 for number in row.values() if number)


def wrong_output(a, h, last):
    return h.at[0, 5, 0].multiply(1.01), last


def wrong_gradient(a, h, last):
    """The value is right: what is added is zero."""
    return h + 1e-3 * (a - jax.lax.stop_gradient(a)), last


def not_finite(a, h, last):
    return h, last.at[0, 3].set(jnp.nan)


@pytest.mark.parametrize(
    ("planted", "name"), [(wrong_output, "outputs"), (wrong_gradient, "da"), (not_finite, "last h0")]
)
def test_a_planted_error_breaks_a_bar(tmp_path, capsys, planted, name):
    case = by_name("diagonal_scan")

    def run(a, **inputs):
        return planted(a, *case.run(a, **inputs))

    cases = [dataclasses.replace(case, run=run, variants={"real": case.variants["real"]})]
    path = tmp_path / "accuracy.md"
    args = ["--dtype", "float32", "--regime", "mild", "--implementation", "reference"]
    assert main([*args, "--length", "40", "--output", str(path)], cases) == 1
    where = "diagonal_scan, float32, reference, variant real, mild: "
    assert f"{where}{name} " in capsys.readouterr().err
    text = path.read_text()
    assert "All are held." not in text
    assert f"- {where}{name} " in text
    assert re.search(r"^\| reference \| real \| mild \|.* \*\*\S+\*\* \|", text, re.MULTILINE)


def test_bars_are_those_of_the_dtype_and_regime():
    def row(dtype, regime, o, dq):
        return Row("delta_rule", dtype, "xla", "none", regime, {"o": o}, {"dq": dq})

    assert not bars.broken([row("float32", "mild", 2e-6, 1e-5), row("float32", "beta-2", 9e-5, 9e-5)])
    assert not bars.broken([row("bfloat16", "mild", 3e-3, 9e-3), row("bfloat16", "long", 3e-3, 9e-3)])
    found = bars.broken([row("float32", "strong", 3e-6, 2e-5), row("float32", "long", 2e-4, float("nan"))])
    assert [(b.row.regime, b.name, b.bar) for b in found] == [
        ("strong", "o", 2e-6),
        ("strong", "dq", 1e-5),
        ("long", "o", 1e-4),
        ("long", "dq", 1e-4),
    ]
    assert [b.name for b in bars.broken([row("bfloat16", "one-gate", 5e-3, 5e-3)])] == ["o"]


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--op", "delta_rul", "unknown op 'delta_rul' (did you mean 'delta_rule'?); choose one of 'all', 'diagonal_"),
        ("--dtype", "float16", "choose one of 'all', 'float32', 'bfloat16'"),
        ("--regime", "beta-3", "choose one of 'all', 'mild', 'strong'"),
        ("--implementation", "pallas", "(did you mean 'pallas_tpu'?); choose one of 'all', 'pallas_tpu', 'sequential'"),
        ("--length", "0", "length must be at least 1, got 0"),
        ("--long", "-1", "long must be at least 1, got -1"),
    ],
)
def test_what_is_unknown_is_refused_with_the_choices(tmp_path, capsys, flag, value, message):
    output = tmp_path / "page.md"
    assert main([flag, value, "--output", str(output)]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_what_cannot_be_measured_or_written_is_refused(tmp_path, capsys):
    assert main(["--op", "diagonal_scan", "--implementation", "xla"]) == 2
    assert "choose one of 'all', 'pallas_tpu', 'sequential'" in capsys.readouterr().err
    assert main(["--regime", "beta-2", "--implementation", "chunked"]) == 2
    assert "nothing has both regime 'beta-2' and implementation 'chunked'" in capsys.readouterr().err
    assert main(["--output", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["--output", str(tmp_path / "file" / "page.md")]) == 2
    assert "cannot make the directory" in capsys.readouterr().err
