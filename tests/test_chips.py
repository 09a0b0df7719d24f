"""Programs for chips that are not here: targets are checked, and the TPU compiler's estimates are added up rightly."""

import importlib.util
import re

import jax
import pytest

from eval import compiling
from eval.bench import on_chip
from eval.bench.cli import main as bench
from eval.bench.contestants import DIAGONAL_SCAN
from recurrax.ops import diagonal_scan, platforms
from runs import command
from train import compiler, plan, presets, sharding
from train.__main__ import main
from train.plan.program import lowered_step
from train.programs import targets
from train.programs.chips import CHIPS
from train.programs.compiled import Compiled, collectives
from train.programs.estimate import estimate, executed, place
from train.programs.schedules import cycles
from train.programs.targets import target

PROGRAM = """HloModule jit_step, is_scheduled=true

%fused (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %y = f32[8,128]{1,0:T(8,128)} add(%x, %x)
}

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[]{:T(128)}, /*index=1*/f32[8,128]{1,0:T(8,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %v = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %w = f32[8,128]{1,0:T(8,128)} fusion(%v), calls=%fused, IN(jit(f)/jvp(M)/groups/0_gla/mixer/mul) CYCLES(100)
  %g = (f32[8,128]{1,0}, f32[16,128]{1,0}) all-gather-start(%w), replica_groups={{0,1}}, dimensions={0}, IN(a)
  %h = f32[16,128]{1,0} all-gather-done(%g)
  %u = f32[8,128]{1,0} custom-call(%h), custom_call_target="tpu_custom_call", frontend_attributes={metadata={
"block": 512
}}, IN(KERNEL)
  %one = s32[] constant(1)
  %j = s32[] add(%i, %one)
  ROOT %t = (s32[], f32[8,128]) tuple(%j, %u)
}

%condition (q: (s32[], f32[8,128])) -> pred[] {
  %q = (s32[], f32[8,128]) parameter(0)
  %k = s32[] get-tuple-element(%q), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%k, %five), direction=LT
}

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,128]) tuple(%zero, %a)
  %loop = (s32[], f32[8,128]) while(%start), condition=%condition, body=%body, IN(jit(f)/jvp(M)/backbone/while)
  %r = f32[8,128]{1,0} get-tuple-element(%loop), index=1
  ROOT %c = f32[8,128]{0,1} copy(%r), IN(jit(f)/mul) CYCLES(7)
}
"""
PROGRAM = PROGRAM.replace("KERNEL", "jit(f)/transpose(jvp(M))/groups/0_gla/mixer/scan_kernel/pallas_call")
PROGRAM = re.sub(r"IN\((.*?)\)( |$)", r'metadata={op_name="\1"}\2', PROGRAM, flags=re.MULTILINE)
PROGRAM = re.sub(r" CYCLES\((.*)\)", r', backend_config={"estimated_cycles":"\1"}', PROGRAM)


def estimated(program, schedules):
    return estimate(executed(program), target("v5e").chip, schedules)


def test_estimates_count_loops_and_say_where():
    """Cycles in a loop count once per turn, and belong to the layer and pass that the operation's name tells."""
    found = estimated(PROGRAM, {"u": 3000})
    assert found.cycles == {("gla mixer", "forward"): 500, ("optimizer", "update"): 7, ("gla mixer", "backward"): 15000}
    assert found.total == 15507
    assert found.kernels == {"scan_kernel": 15000}
    assert not found.uncounted_loops
    unknown = estimated(PROGRAM.replace("direction=LT", "direction=NE"), {"u": 3000})
    assert unknown.total == 3107
    assert unknown.uncounted_loops == ("jit(f)/jvp(M)/backbone/while",)


def test_kernels_take_as_long_as_the_memory_at_least():
    """A kernel with a short schedule, or none, takes the time of its arguments and results."""
    moved = 5 * (16 * 128 * 4 + 8 * 128 * 4) / 819e9 * 1.5e9
    for schedules in ({}, {"u": 1.0}):
        assert estimated(PROGRAM, schedules).kernels == {"scan_kernel": pytest.approx(moved)}


SCHEDULE = """
= control target key start
LB: loop body
= control target key end
     0x0   :  { %1 = start }
     0x1 LB: > { %2 = copies }
     0x2 LB: >> { %3 = step }
     0x3   : >> { %4 = scmp.ge.s32.totalorder %s3, 64 /* loop exit test */ }
     0x4   : > { %5 = between }
     0x5 LB: >> { %6 = scmp.ge.s32.totalorder %s5, 10 /* loop exit test */ ;; %7 = step }
     0x6   : > { %8 = scmp.ge.s32.totalorder %s8, 18 /* loop exit test */ }
     0x7   :  { %9 = end }
"""


def test_schedules_count_loops_of_bundles():
    """A bundle in a loop counts once per turn; two turns of the loop over blocks only copy."""
    assert cycles(SCHEDULE) == 2 + (18 - 2) * (3 + 2 * 64 + 1 * 10)
    assert cycles(SCHEDULE.replace("64 /* loop exit test */", "%s9")) == 2 + (18 - 2) * (3 + 2 + 10)


def test_collectives_of_a_compiled_program_are_counted():
    """An asynchronous collective counts once per turn, with the bytes of its result."""
    (found,) = collectives(executed(PROGRAM))
    assert (found.kind, found.devices, found.count, found.payload) == ("all-gather", (0, 1), 5, 5 * 16 * 128 * 4)
    assert sum(times for one, _, times, _ in executed(PROGRAM) if one.opcode == "custom-call") == 5


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("jit(f)/transpose(jvp(M))/backbone/while/groups/1_rglru/mixer/mixer.run/mul", ("rglru mixer", "backward")),
        ("jit(f)/transpose(jvp(M))/backbone/rest/1_rglru/projection/dot", ("rglru projection", "backward")),
        ("jit(f)/jvp(M)/checkpoint/rematted_computation/groups/0_gla/mlp_norm/mul", ("gla norms", "recomputed")),
        ("jit(f)/jvp(M)/backbone/norm/mul", ("backbone", "forward")),
        ("jit(f)/transpose(jvp())/sub", ("embedding, head and loss", "backward")),
        ("jit(f)/mul", ("optimizer", "update")),
    ],
)
def test_operations_are_placed_by_layer_and_pass(name, where):
    """The name of an operation tells its layer and its pass."""
    assert place(name) == where


def test_targets_are_chips_and_slices():
    """A chip alone is one device, a slice has the axes of its torus."""
    assert {target(chip.key).chip for chip in CHIPS} == set(CHIPS)
    assert target("v5e").shape == (1, 1)
    assert target("v5p:4x4x4").shape == (4, 4, 4)
    assert [target(name).name for name in ("v5e:4x4", "h100", "h100:1x1x8")] == ["v5e:4x4", "h100", "h100:1x1x8"]
    assert (target("v6e").chip.platform, target("h200").chip.platform) == ("tpu", "cuda")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("v5x", r"unknown chip 'v5x' \(did you mean 'v5[ep]'\?\); choose one of"),
        ("v5e:2x2x2", "a slice of v5e has 2 axes, such as v5e:2x2"),
        ("h100:0x1x8", "a slice of h100 has 3 axes"),
        ("v5p:", "a slice of v5p has 3 axes"),
    ],
)
def test_impossible_targets_are_refused(written, message):
    """An unknown chip is refused with the known ones, a shape with the axes that the chip has."""
    with pytest.raises(ValueError, match=message):
        target(written)


def test_missing_compiler_names_the_extra(monkeypatch, capsys):
    """Without the compiler's package the error says how to install it, before anything is traced."""
    monkeypatch.setattr(targets, "COMPILERS", {"tpu": "no_such_package", "cuda": "no_such_package"})
    with pytest.raises(SystemExit):
        main(["tiny", "--plan", "--chip", "v5e"])
    with pytest.raises(SystemExit):
        main(["tiny", "--chip", "v5e", "--workdir", "unused"])
    errors = capsys.readouterr().err
    assert "TPU v5e is not installed (package no_such_package): pip install 'recurrax[aot]'" in errors
    assert "--chip is for plans; add --plan" in errors


def test_plan_of_a_chip_shows_what_its_compiler_says():
    """The page has memory, collectives, the estimate by layer, and the share of the peak rate."""
    compiled = Compiled(
        target("v5e:2x2"),
        10**9,
        2 * 10**9,
        10**6,
        3 * 10**9,
        tuple(collectives(executed(PROGRAM))),
        estimated(PROGRAM, {}),
        5.0,
    )
    found = plan.ChipPlan(compiled, {"data": 1, "fsdp": 2}, 1024, 100)
    assert compiled.fits
    assert compiled.estimated_seconds == pytest.approx(619.5 / 1.5e9, rel=1e-3)
    assert found.peak_share == pytest.approx(6 * 100 * 512 / (619.5 / 1.5e9) / 197e12, rel=1e-3)
    page = plan.chip_report(found, "mine")
    for part in (
        "v5e:2x2 (TPU v5e)",
        "3 GB",
        "fits TPU v5e",
        "all-gather  fsdp  5",
        "gla mixer",
        "99%",
        "in kernels, by the length of their schedules: scan_kernel",
    ):
        assert part in page
    assert "estimated" not in plan.chip_report(plan.ChipPlan(of_gpu(), {"data": 1}, 1, 1), "mine")


def of_gpu():
    return Compiled(target("h100"), 1, 1, 1, 1, (), None, 1.0)


def test_benchmark_of_a_chip_shows_floors_and_refusals():
    """A row has the estimate over the floor, and a program that the compiler refuses has its reason."""
    row = on_chip.Row("scan", (1, 2), "float32", "chunked", {"forward": 0.5, "backward": 1.0},
                      {"forward": 1.0, "backward": 3.0}, 1.0, 2.0, 3.0)  # fmt: skip
    refused = on_chip.Row("scan", (1, 2), "float32", "kernel", {}, {}, 0.0, 0.0, 0.0, "ValueError: too large")
    lines = on_chip.table([row, refused]).splitlines()
    assert lines[2] == "| scan | float32 | chunked | 1.00 | 2.0 | 3.00 | 3.0 | 1.0 | 2 | 3 |"
    assert "| scan | float32 | kernel | ValueError: too large |" in lines[3]


def test_benchmark_of_a_chip_keeps_its_compilations(monkeypatch, tmp_path):
    """The same command compiles nothing twice; implementations that do not run on the chip have no row."""
    compiled = []

    def compiled_row(benchmark, contestant, target, dtype, sizes):
        compiled.append(contestant.name)
        floor = {"forward": 1.0, "backward": 1.0}
        return on_chip.Row(
            benchmark.op, sizes, dtype, contestant.name, floor, {"forward": 2.0, "backward": 3.0}, 1, 2, 3
        )

    monkeypatch.setattr(on_chip, "_row", compiled_row)
    for _ in range(2):
        rows = list(on_chip.rows([DIAGONAL_SCAN], target("v5e"), "float32", "all", None, tmp_path))
    assert compiled == [row.contestant for row in rows] == ["pallas_tpu", "associative", "chunked", "reference"]
    assert "sequential" in [
        row.contestant for row in on_chip.rows([DIAGONAL_SCAN], target("h100"), "float32", "all", None, tmp_path)
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--chip", "v5x"], "unknown chip 'v5x'"),
        (["--chip", "v5e"], "--workdir DIR is missing"),
        (["--chip", "v5e", "--workdir", "w", "--op", "scan"], "unknown op 'scan'"),
        (["--chip", "v5e", "--workdir", "w", "--dtype", "float32,int8"], "unknown dtype 'int8'"),
        (["--chip", "v5e", "--workdir", "w", "--implementation", "pallas"], "did you mean 'pallas_tpu'"),
        (["--chip", "v5e", "--workdir", "w", "--op", "all", "--shape", "1,2,3"], "--op all has --shape all"),
    ],
)
def test_impossible_benchmarks_of_chips_are_refused(monkeypatch, flags, message):
    """Unknown names and missing arguments are refused before anything is compiled or written."""
    monkeypatch.setattr(targets.Target, "check_installed", lambda self: None)
    with pytest.raises(ValueError, match=message):
        bench(flags)


def test_models_of_chips_are_compiled_once(monkeypatch, tmp_path):
    """Mixers have a training and a decoding step, presets a training step; the same command compiles nothing twice."""
    compiled = []

    def compiled_row(name, program, lower, chip):
        compiled.append((name, program))
        estimated = None if chip.chip.platform == "cuda" else 1.5
        return compiling.Row(name, program, chip.name, estimated, 2.0, 1024.0, 3.0)

    monkeypatch.setattr(compiling, "_row", compiled_row)
    chips = [target("v5e"), target("h100")]
    for _ in range(2):
        rows = list(compiling.rows(["GLA", "gla_1b"], chips, tmp_path))
    assert compiled == [
        *(("GLA", program) for _ in chips for program in ("train", "decode")),
        *2 * [("gla_1b", "train")],
    ]
    assert compiling.table(rows).splitlines() == [
        "| model | v5e: train | v5e: decode | h100: train | h100: decode |",
        "|---|---|---|---|---|",
        "| GLA | 1.50 ms, code 2.0 MiB | 1.50 ms, code 2.0 MiB | 1,024 MiB | 1,024 MiB |",
        "| gla_1b | 1.50 ms, code 2.0 MiB |  | 1,024 MiB |  |",
    ]


def test_presets_are_compiled_for_slices_of_each_chip():
    """A slice has the asked number of devices, as square as can be; GPUs are nodes of eight."""
    slices = {chip: compiling.slice_of(target(chip), 16).name for chip in ("v5e", "v5p", "h100")}
    assert slices == {"v5e": "v5e:4x4", "v5p": "v5p:2x2x4", "h100": "h100:1x2x8"}
    assert compiling.slice_of(target("v5p"), 64).name == "v5p:4x4x4"
    assert set(compiling.chosen("presets")) == {"default", "tiny", "digits", *compiling.SLICES}
    with pytest.raises(ValueError, match="did you mean 'Mamba'"):
        compiling.chosen("GLA,Mambo")


@pytest.mark.parametrize("program", ["trained", "decoded"])
def test_programs_of_chips_are_lowered_without_them(monkeypatch, program):
    """The steps that are compiled for chips are lowered here for a device of the host."""
    monkeypatch.setattr(targets.Target, "devices", lambda self: jax.devices()[:1])
    lowered = getattr(compiling, program)("LRU", target("v5e"))
    assert lowered.in_tree.num_leaves > 10


def test_training_passes_options_to_the_compiler(monkeypatch):
    """The step is compiled with the options of its platform; the compiler refuses one that it does not know."""
    monkeypatch.setitem(compiler.OPTIONS, "cpu", {"no_such_option": True})
    config = presets.tiny()
    lowered, _ = lowered_step(config, sharding.make_mesh(config.mesh))
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        lowered.compile()


def test_float64_loop_is_refused_on_a_tpu():
    """Where the platform is known, an implementation that does not run there is refused with those that do."""
    x = jax.ShapeDtypeStruct((1, 8, 4), "float32")
    with platforms.on("tpu"), pytest.raises(ValueError, match="'sequential' of diagonal_scan does not run on tpu; use"):
        jax.eval_shape(lambda x: diagonal_scan(x, x, implementation="sequential"), x)


if importlib.util.find_spec("libtpu"):  # the extra `aot`, which `make test` does not install

    def test_tiny_step_compiles_for_a_tpu():
        """The step of the smallest preset compiles for a slice of four chips, with an estimate for every layer."""
        page = command("-m", "train", "tiny", "--plan", "--chip", "v5e:2x2", "--mesh.fsdp", 2, "--mesh.data", 2).stdout
        for part in ("rglru mixer", "attention projection", "optimizer", "fits TPU v5e", "Estimated step time"):
            assert part in page


if importlib.util.find_spec("jax_cuda13_plugin"):

    def test_tiny_step_compiles_for_a_gpu():
        """The step of the smallest preset compiles for an H100."""
        assert "fits H100" in command("-m", "train", "tiny", "--plan", "--chip", "h100").stdout
