"""Plans: what is counted in a compiled program is what the program does, worked out by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from recurrax.mixers import LRU, Attention
from recurrax.models import LanguageModelConfig
from recurrax.projections import GLU
from runs import command
from train.config import TrainConfig
from train.data import VOCAB_SIZE, DataConfig
from train.optimizers import AdamW
from train.plan import Plan, make_plan, report
from train.plan.page import bytes_text, fits
from train.plan.program import abstract_batch, compiled
from train.programs.chips import CHIPS, times
from train.programs.collectives import Collective, group
from train.programs.cost import Cost, program_cost
from train.sharding import MeshConfig, make_mesh

RING = jax.make_mesh((8,), ("ring",), axis_types=(AxisType.Auto,))
EVERYWHERE = NamedSharding(RING, PartitionSpec())
F32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32, sharding=EVERYWHERE)


def cost(function, *arguments, **options):
    """Return the cost of a function of abstract arguments, which each of eight devices has whole by default."""
    return program_cost(compiled(jax.jit(function, **options).lower(*arguments))[0])


def test_products_are_two_flops_per_number_and_term():
    found = cost(lambda x, w: x @ w, F32((3, 5, 7)), F32((7, 11)))
    assert found.product_flops == (("f32", 2 * 3 * 5 * 7 * 11),)
    # Read both, write one.
    assert found.traffic == 4 * (3 * 5 * 7 + 7 * 11 + 3 * 5 * 11)
    half = cost(lambda x, w: x @ w, *(F32((4, 4), dtype=jnp.bfloat16),) * 2)
    assert half.product_flops == (("bf16", 2 * 4**3),)
    assert half.traffic == 2 * 3 * 16
    images, kernel = F32((2, 6, 6, 3)), F32((3, 3, 3, 8))
    convolve = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert cost(convolve, images, kernel).product_flops == (("f32", 2 * 2 * 6 * 6 * 8 * 3 * 3 * 3),)


def test_elementwise_work_is_one_kernel():
    found = cost(lambda x, y: jnp.tanh(x * y) + 1.0, F32((100,)), F32((100,)))
    assert found.other_flops == 300
    assert found.traffic == 4 * 300  # two in, one out, nothing in between
    # What a sum has made is read again; x is read by both kernels.
    assert cost(lambda x: x / x.sum(), F32((100,))).traffic == 4 * (100 + 1) + 4 * (100 + 1 + 100)
    # A result that a product reads lies in memory.
    assert cost(lambda x: jnp.exp(x) @ x, F32((8, 8))).traffic == 4 * 64 * 2 + 4 * 64 * 3
    # Of what is sliced only the slice is read.
    assert cost(lambda x: 2 * x[:10], F32((100,))).traffic == 4 * (10 + 10)


def test_loops_count_as_often_as_they_turn():
    def scanned(x, ws):
        def step(x, w):
            return jax.lax.fori_loop(0, 3, lambda _, x: x @ w, x), x.sum()

        return jax.lax.scan(step, x, ws)

    found = cost(scanned, F32((8, 8)), F32((5, 8, 8)))
    assert found.product_flops == (("f32", 5 * 3 * 2 * 8**3),)
    assert not found.uncounted_loops
    until = cost(lambda x: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ x, x), F32((8, 8)))
    assert until.product_flops == (("f32", 2 * 8**3),)
    assert len(until.uncounted_loops) == 1


def test_plan_counts_the_products_of_gradients_and_remat():
    """The gradients of a stack of layers cost three times its products, with remat four times."""

    def layer(x, w):
        return jnp.tanh(x @ w), None

    def loss(ws, x, remat):
        return jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, ws)[0].sum()

    forward = 6 * 2 * 16 * 8 * 8
    for remat, passes in ((False, 3), (True, 4)):
        found = cost(jax.grad(functools.partial(loss, remat=remat), (0, 1)), F32((6, 8, 8)), F32((16, 8)))
        assert found.product_flops == (("f32", passes * forward),)


MESH = MeshConfig(data=1, fsdp=2, tensor=2, time=2)


def split(*axes):
    return NamedSharding(make_mesh(MESH), PartitionSpec(*axes))


def test_exchanges_have_their_kind_axes_and_bytes():
    sizes = dict(make_mesh(MESH).shape)
    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=split("fsdp", "tensor"))
    (gathered,) = cost(lambda x: x, x, out_shardings=split("fsdp")).collectives
    assert (gathered.kind, gathered.axes(sizes), gathered.dtype) == ("all-gather", ("tensor",), "f32")
    assert (gathered.payload, gathered.sent) == (8 * 32 * 4, 8 * 32 * 4 / 2)

    w = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=split("tensor"))
    (summed,) = cost(lambda x, w: x @ w, x, w, out_shardings=split("fsdp")).collectives
    assert (summed.kind, summed.axes(sizes)) == ("all-reduce", ("tensor",))
    assert (summed.payload, summed.sent) == (8 * 64 * 4, 8 * 64 * 4)


def around(function):
    """Return the collectives of a function of each device's (16, 3) numbers."""
    spec = PartitionSpec("ring")
    return cost(jax.shard_map(function, mesh=RING, in_specs=spec, out_specs=spec), F32((128, 3))).collectives


def test_plan_counts_a_sliced_sum_as_reduce_scatter():
    """Each device receives its part of a sum that is sliced, as on an accelerator."""

    def sliced(x):
        return jax.lax.dynamic_slice_in_dim(jax.lax.psum(x, "ring"), 2 * jax.lax.axis_index("ring"), 2)

    for function in (sliced, lambda x: jax.lax.psum_scatter(x, "ring", tiled=True)):
        (scattered,) = around(function)
        assert (scattered.kind, scattered.payload, scattered.sent) == ("reduce-scatter", 16 * 3 * 4, 7 / 8 * 16 * 3 * 4)


def test_plan_counts_permute_and_all_to_all():
    """A plan counts the bytes that devices pass on and deal out."""
    (passed,) = around(lambda x: jax.lax.ppermute(x, "ring", [(i, (i + 1) % 8) for i in range(8)]))
    assert (passed.kind, passed.sent, passed.devices) == ("collective-permute", 16 * 3 * 4, (0, 1))
    (dealt,) = around(lambda x: jax.lax.all_to_all(x, "ring", 0, 0, tiled=True))
    assert (dealt.kind, dealt.sent) == ("all-to-all", 7 / 8 * 16 * 3 * 4)


def test_exchanges_in_a_loop_are_added_up():
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=split())
    ws = jax.ShapeDtypeStruct((5, 16, 16), jnp.float32, sharding=split(None, "fsdp"))
    whole = lambda w: jax.lax.with_sharding_constraint(w, split())  # noqa: E731
    found = cost(lambda x, ws: jax.lax.scan(lambda x, w: (x @ whole(w), None), x, ws)[0], x, ws, out_shardings=split())
    (gathered,) = found.collectives
    assert (gathered.kind, gathered.count, gathered.payload) == ("all-gather", 5, 5 * 16 * 16 * 4)


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("replica_groups={{0,4},{1,5}}, x=1", (0, 4)),
        ("replica_groups=[2,4]<=[8], x=1", (0, 1, 2, 3)),
        ("replica_groups=[2,4]<=[4,2]T(1,0), x=1", (0, 2, 4, 6)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x=1", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x=1", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}, x=1", tuple(range(8))),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, x=1", (0, 4)),
        ("replica_groups=mesh['a'=8] {'a':(2)2}, x=1", (0, 2)),
        ("replica_groups=mesh['a'=8] {'a':(1)2}, x=1", (0, 4)),
        ("channel_id=1, source_target_pairs={{3,5},{5,3}}", (3, 5)),
    ],
)
def test_device_groups_are_read_in_every_notation(text, devices):
    """Groups of devices are read in every notation of the compiler."""
    assert group(text) == devices


def test_unreadable_device_group_is_an_error():
    """A group that cannot be read is an error and not a guess."""
    with pytest.raises(ValueError, match="cannot read the group"):
        group("replica_groups=?")


def config(mesh=MESH, **options):
    return TrainConfig(
        model=LanguageModelConfig(
            vocab_size=VOCAB_SIZE,
            dim=64,
            num_layers=4,
            projection=GLU(expansion=2.0),
            **{"dtype": "bfloat16", "pattern": (LRU(state_dim=64), Attention(num_heads=2, window=64)), **options},
        ),
        data=DataConfig(sequence_length=64, batch_size=8),
        mesh=mesh,
    )


@pytest.fixture(scope="module")
def plan():
    return make_plan(config())


def test_plan_matches_the_sharding_rules(plan):
    """A plan holds the bytes that the sharding rules deal to a device."""
    alone = make_plan(config(MeshConfig(data=1)))
    assert plan.mesh == {"data": 1, "fsdp": 2, "tensor": 2, "time": 2}
    assert plan.tokens == alone.tokens == 8 * 64
    assert alone.parameters == 4 * alone.parameter_count == 4 * plan.parameter_count
    # Matrices in four parts (time copies them); vectors whole.
    assert alone.parameters / 4 < plan.parameters < alone.parameters / 3
    assert plan.gradients == plan.parameters
    assert plan.optimizer == pytest.approx(2 * plan.parameters, abs=100)  # two moments, and counts of steps
    assert alone.activations / 8 <= plan.activations < alone.activations / 3
    assert not alone.cost.collectives
    # Each device has an eighth of the products; what is computed twice is small.
    products, part = (sum(flops for _, flops in p.cost.product_flops) for p in (alone, plan))
    assert products / 8 <= part < products / 6
    tokens, weights = 8 * 64, alone.parameter_count
    assert 6 * tokens * weights < products < 12 * tokens * weights  # short sequences: chunks and windows weigh much
    assert plan.least <= plan.most
    assert {"fsdp", "tensor", "time"} == {axis for c in plan.cost.collectives for axis in c.axes(plan.mesh)}


def test_remat_trades_activations_for_products():
    """A policy that keeps less has fewer activations and more products."""
    alone = config(MeshConfig(data=1), pattern=(LRU(state_dim=64),))
    found = [
        make_plan(dataclasses.replace(alone, model=dataclasses.replace(alone.model, remat=remat)))
        for remat in (None, "dots_saveable", "nothing_saveable")
    ]
    kept = [p.activations for p in found]
    assert kept[0] > kept[1] > kept[2] >= 2 * 8 * 64 * 64 * 2  # the stream between groups, in bfloat16
    products = [sum(flops for _, flops in p.cost.product_flops) for p in found]
    assert products[0] <= products[1] < (products[0] + products[2]) / 2  # kept, also those of bfloat16 factors
    sliced = dataclasses.replace(alone, optimizer=AdamW(accumulate=2))
    assert make_plan(sliced).activations == pytest.approx(kept[0] / 2, rel=0.1)


def test_parameters_are_not_counted_as_activations():
    """Parameters that the backward pass reads do not count as activations."""
    # Without a policy their bfloat16 copies are kept, and those are.
    alone = config(MeshConfig(data=1), remat="nothing_saveable")
    found = make_plan(dataclasses.replace(alone, data=DataConfig(sequence_length=2, batch_size=1)))
    assert found.activations < found.parameters / 5


def test_batches_are_those_that_the_data_give(tmp_path):
    from train.data import Rows, batch_at, open_documents

    (tmp_path / "a.txt").write_text("some words " * 500)
    data = DataConfig(path=str(tmp_path / "a.txt"), sequence_length=64, batch_size=8)
    batch = batch_at(Rows(open_documents(data, "train"), 64), data, 0, 0)
    planned = abstract_batch(data, make_mesh(MESH), 8)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {k: (v.shape, v.dtype) for k, v in planned.items()}


def made_up(**fields):
    ring = Collective("all-gather", tuple(range(16)), "f32", 16e9)
    near = Collective("all-reduce", tuple(range(8, 16)), "f32", 8e9)
    work = Cost((("bf16", 989e12), ("f32", 67e12)), 1.0, 3350e9, (ring, near))
    sizes = dict.fromkeys(("parameters", "gradients", "optimizer", "activations"), 10 * 10**9)
    return Plan(**{"mesh": {"data": 2, "fsdp": 8}, "tokens": 1, "parameter_count": 1, **sizes, "held": 10**9,
                   "cost": work, "seconds": 1.0, **fields})  # fmt: skip


def test_times_are_work_over_rate():
    h100 = next(chip for chip in CHIPS if chip.name == "H100")
    found = times(made_up().cost, h100)
    assert found.compute == 2
    assert found.memory == 1
    # Sixteen devices are two nodes; the eight of one node have NVLink.
    assert found.network == pytest.approx(15 / 50 + 14 / 450)
    assert found.overlapped == 2
    assert found.in_turn == pytest.approx(3 + 15 / 50 + 14 / 450)
    v5p = next(chip for chip in CHIPS if chip.name == "TPU v5p")
    assert times(made_up().cost, v5p).network == pytest.approx((15 + 14) / 200)


def test_whether_it_fits():
    h100 = next(chip for chip in CHIPS if chip.name == "H100")
    gigabyte = 10**9
    assert fits(made_up(), h100) == "fits"  # 40 of 80
    assert fits(made_up(held=75 * gigabyte), h100) == "may fit"
    assert fits(made_up(held=75 * gigabyte, activations=60 * gigabyte), h100) == "too small"
    assert [bytes_text(n) for n in (0, 999, 1000, 1.5e9, 2e15)] == ["0 B", "999 B", "1 kB", "1.5 GB", "2e+03 TB"]


def test_the_page_has_every_figure(plan):
    page = report(plan, "small")
    for part in ("fsdp=2, tensor=2, time=2", "8 virtual devices", "activations", "matmuls in bf16", "FLOPs/byte"):
        assert part in page
    for chip in CHIPS:
        assert chip.name in page
    assert "all-gather" in page
    assert "Nothing here was measured" in page


def test_plan_command_writes_nothing(tmp_path, monkeypatch):
    """The command needs no devices and no workdir, and writes nothing."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    page = command("-m", "train", "tiny", "--mesh.fsdp", 8, "--mesh.time", 4, "--mesh.data", "None", "--plan").stdout
    assert "fsdp=8, time=4" in page
    assert "Compiled for 32 virtual devices" in page
    assert not list(tmp_path.iterdir())


def test_plan_refuses_a_bad_mesh_before_compiling():
    """A mesh that does not fit is refused before anything is compiled."""
    with pytest.raises(ValueError, match="data.sequence_length 64 is not divisible by mesh.time 3"):
        make_plan(config(MeshConfig(data=1, time=3)))
    with pytest.raises(ValueError, match="64 is not divisible by mesh.tensor = 5"):
        make_plan(config(MeshConfig(data=1, tensor=5)))
