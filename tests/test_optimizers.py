"""Every optimizer computes its formula, decays and groups as declared, and has a state that meshes split."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrax.models import parameters
from recurrax.parameters import Parameter
from runs import saved_state, small
from train import presets, sharding
from train.loop import train
from train.optimizers import SGD, Adafactor, AdamW, Constant, Lion, Muon, ScheduleFreeAdamW
from train.sharding import MeshConfig
from train.state import abstract_state

PLAIN = {"learning_rate": 0.1, "schedule": Constant(warmup_steps=0), "weight_decay": 0.0, "clip_norm": math.inf}
OPTIMIZERS = {
    "AdamW": AdamW(**PLAIN, beta1=0.75, beta2=0.5),
    "Lion": Lion(**PLAIN, beta1=0.75, beta2=0.5),
    "SGD": SGD(**PLAIN, momentum=0.5),
    "SGD with Nesterov": SGD(**PLAIN, momentum=0.5, nesterov=True),
    "SGD without momentum": SGD(**PLAIN, momentum=0.0),
    "Adafactor": Adafactor(**PLAIN, min_dim_to_factor=3),
    "Muon": Muon(**PLAIN, momentum=0.5, beta1=0.75, beta2=0.5),
    "Schedule-Free": ScheduleFreeAdamW(**PLAIN, beta1=0.75, beta2=0.5),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
DECLARED = {
    "stack": Parameter(None, (2, 4, 6), ("layers", "embed", "hidden"), "matrix"),
    "scale": Parameter(None, (5,), ("embed",), "vector"),
}
STEPS = 4


def adam(gradients, config):
    m = v = 0
    for t, g in enumerate(gradients, 1):
        m = config.beta1 * m + (1 - config.beta1) * g
        v = config.beta2 * v + (1 - config.beta2) * g**2
        yield m / (1 - config.beta1**t) / (np.sqrt(v / (1 - config.beta2**t)) + 1e-8)


def lion(gradients, config):
    m = 0
    for g in gradients:
        yield np.sign(config.beta1 * m + (1 - config.beta1) * g)
        m = config.beta2 * m + (1 - config.beta2) * g


def sgd(gradients, config):
    m = 0
    for g in gradients:
        m = config.momentum * m + g
        yield g + config.momentum * m if config.nesterov else m


def adafactor(gradients, config):
    """Factor the last two axes; vectors have whole moments."""
    v = rows = columns = 0
    for t, g in enumerate(gradients, 1):
        square, decay = g**2 + 1e-30, 1 - t**-config.decay_power
        if g.ndim > 1:
            rows = decay * rows + (1 - decay) * square.mean(-1, keepdims=True)
            columns = decay * columns + (1 - decay) * square.mean(-2, keepdims=True)
            v = rows * columns / rows.mean(-2, keepdims=True)
        else:
            v = decay * v + (1 - decay) * square
        direction = g / np.sqrt(v)
        yield direction / max(1.0, np.sqrt((direction**2).mean()))


def muon(gradients, config):
    """Apply five Newton-Schulz iterations to each matrix; Nesterov's momentum with Adam's bias correction."""
    if gradients[0].ndim == 1:
        # Nesterov's rule for AdamW as well.
        m = v = 0
        for t, g in enumerate(gradients, 1):
            m = config.beta1 * m + (1 - config.beta1) * g
            v = config.beta2 * v + (1 - config.beta2) * g**2
            ahead = config.beta1 * m / (1 - config.beta1 ** (t + 1)) + (1 - config.beta1) * g / (1 - config.beta1**t)
            yield ahead / (np.sqrt(v / (1 - config.beta2**t)) + 1e-8)
        return
    a, b, c = 3.4445, -4.775, 2.0315
    m = 0
    for t, g in enumerate(gradients, 1):
        m = config.momentum * m + (1 - config.momentum) * g
        ahead = config.momentum * m / (1 - config.momentum ** (t + 1)) + (1 - config.momentum) * g / (
            1 - config.momentum**t
        )
        found = []
        for x in ahead:
            x = x / (np.linalg.norm(x) + 1e-8)
            for _ in range(config.iterations):
                gram = x @ x.T
                x = a * x + (b * gram + c * gram @ gram) @ x
            found.append(0.2 * math.sqrt(max(x.shape)) * x)
        yield np.stack(found)


def schedule_free(gradients, config):
    """Yield the changes of x, which starts at 1, over -rate; here gradients do not depend on the point."""
    x = z = np.ones_like(gradients[0])
    v = 0
    for t, g in enumerate(gradients, 1):
        v = config.beta2 * v + (1 - config.beta2) * g**2
        z = z - config.learning_rate * g / (np.sqrt(v / (1 - config.beta2**t)) + 1e-8)
        yield (x - z) / t / config.learning_rate  # equal rates: c_t = 1 / t
        x = x + (z - x) / t


ORACLES = {
    **{AdamW: adam, Lion: lion, SGD: sgd, Adafactor: adafactor, Muon: muon},
    ScheduleFreeAdamW: schedule_free,
}


@every_optimizer
def test_optimizer_computes_its_formula(optimizer):
    """Updates of a stack of matrices and of a vector are those of NumPy in float64, over several steps."""
    rng = np.random.default_rng(0)
    gradients = {name: rng.standard_normal((STEPS, *p.shape)) for name, p in DECLARED.items()}
    params = {name: jnp.ones(p.shape) for name, p in DECLARED.items()}
    built = optimizer.build(DECLARED)
    state, update = built.init(params), jax.jit(built.update)
    wanted = {name: list(ORACLES[type(optimizer)](each, optimizer)) for name, each in gradients.items()}
    for step in range(STEPS):
        now = {name: each[step].astype(np.float32) for name, each in gradients.items()}
        updates, state = update(now, state, params)
        params = optax.apply_updates(params, updates)
        for name, found in updates.items():
            np.testing.assert_allclose(found, -0.1 * wanted[name][step], rtol=1e-4, atol=1e-6, err_msg=(name, step))


@every_optimizer
def test_optimizer_decays_matrices_alone(optimizer):
    """Without gradients, matrices and heads shrink by rate * decay, and no other parameter changes."""
    optimizer = dataclasses.replace(optimizer, weight_decay=0.5)
    declared = parameters(presets.tiny().model)
    params = {path: jnp.full(p.shape, 2.0) for path, p in declared.items()}
    built = optimizer.build(declared)
    updates, _ = jax.jit(built.update)(jax.tree.map(jnp.zeros_like, params), built.init(params), params)
    for path, update in updates.items():
        wanted = -0.1 * 0.5 * 2.0 if declared[path].role in ("matrix", "head") else 0.0
        np.testing.assert_allclose(update, wanted, rtol=1e-6, err_msg=path)
    names = {path.rpartition("/")[2] for path, p in declared.items() if p.is_decayed}
    assert {"in_kernel", "in_gate", "out_kernel", "in_q", "recurrence_gate_kernel", "input_gate_kernel"} <= names
    assert not {"embedding", "scale", "decay", "conv_kernel", "conv_bias", "input_gate_bias"} & names


def test_schedule_free_finds_the_minimum_by_its_average():
    """The gradient is taken between z and x, weight decay too; c_t follows the squared rates of a warm-up."""
    config = ScheduleFreeAdamW(**{**PLAIN, "schedule": Constant(warmup_steps=4), "weight_decay": 0.3})
    declared = {"w": Parameter(None, (2, 2), ("embed", "heads"), "matrix")}
    target = np.array([[1.0, -2.0], [0.5, 3.0]])
    x = z = np.ones((2, 2))
    v = total = 0.0
    built = config.build(declared)
    params = {"w": jnp.ones((2, 2))}
    state = built.init(params)
    for t in range(1, 12):
        point = config.gradient_point(params, state)
        updates, state = built.update({"w": point["w"] - target}, state, params)
        params = optax.apply_updates(params, updates)
        y = (1 - config.beta1) * z + config.beta1 * x
        g = y - target
        v = config.beta2 * v + (1 - config.beta2) * g**2
        rate = 0.1 * min((t - 1) / 4, 1.0)
        z = z - rate * (g / (np.sqrt(v / (1 - config.beta2**t)) + 1e-8) + 0.3 * y)
        total += rate**2
        x = x + (rate**2 / total if total else 0.0) * (z - x)
        np.testing.assert_allclose(params["w"], x, rtol=1e-5, err_msg=t)


@pytest.mark.parametrize("norm", [0.25, 1000.0])
def test_gradients_are_clipped_by_their_global_norm(norm):
    optimizer = AdamW(clip_norm=0.5, beta1=0.75, beta2=0.5).build(DECLARED)
    random = np.random.default_rng(1)
    grads = {name: random.normal(size=p.shape) for name, p in DECLARED.items()}
    size = math.sqrt(sum((g**2).sum() for g in grads.values()))
    grads = {name: np.float32(g * (norm / size)) for name, g in grads.items()}
    params = jax.tree.map(jnp.zeros_like, grads)
    _, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    [adam] = [part for part in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(part)]
    for name, first in adam.mu.items():
        gradient = grads[name] * min(1.0, 0.5 / norm)
        np.testing.assert_allclose(first, 0.25 * gradient, rtol=2e-5, err_msg=name)
        np.testing.assert_allclose(adam.nu[name], 0.5 * gradient**2, rtol=4e-5, err_msg=name)


def is_adam(part):
    return isinstance(part, optax.ScaleByAdamState)


def test_groups_change_rates_and_decay():
    """The first group that matches applies; its factor multiplies the declared one, its decay replaces the role's."""
    declared = {
        "0/in_q": Parameter(None, (2, 2), ("embed", "heads"), "matrix"),
        "0/decay": Parameter(None, (2,), ("channels",), "recurrence", learning_rate=2.0),
        "0/scale": Parameter(None, (2,), ("embed",), "vector"),
        "out": Parameter(None, (2, 2), ("embed", "vocab"), "head"),
    }
    optimizer = dataclasses.replace(
        OPTIMIZERS["SGD without momentum"], weight_decay=0.5, groups=("recurrence=0.1", "*/in_?=3,0", "head=1,0.25")
    )
    built = optimizer.build(declared)
    params = {path: jnp.ones(p.shape) for path, p in declared.items()}
    updates, _ = built.update(params, built.init(params), params)
    found = {path: float(update.ravel()[0]) for path, update in updates.items()}
    wanted = {"0/in_q": -0.1 * 3, "0/decay": -0.1 * 0.1 * 2, "0/scale": -0.1, "out": -0.1 * 1.25}
    assert found == pytest.approx(wanted, rel=1e-6)
    assert optimizer.describe(declared).splitlines() == [
        "parameters  learning rate  weight decay  roles",
        "4           x 3            0             matrix",
        "4           x 1            0.25          head",
        "2           x 0.2          0             recurrence",
        "2           x 1            0             vector",
    ]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (("recurrence",), r"must be PATTERN=FACTOR or PATTERN=FACTOR,DECAY .* got 'recurrence'"),
        (("recurrence=fast",), "got 'recurrence=fast'"),
        (("recurrence=-1",), "got 'recurrence=-1'"),
        (("recurrence=1,2,3",), "got 'recurrence=1,2,3'"),
        (("recurence=0.1",), r"'recurence' matches no parameter.*did you mean 'recurrence'.*choose a role"),
        (("matrix=1", "*/in_gate=2"), r"'\*/in_gate' matches no parameter"),
    ],
)
def test_bad_groups_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        AdamW(groups=groups).build(parameters(presets.tiny().model))


@every_optimizer
def test_optimizer_state_is_split_like_its_parameters(optimizer):
    """A moment of a parameter has its sharding; moments of rows and columns are replicated."""
    config = dataclasses.replace(presets.tiny(), optimizer=optimizer, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    mesh = sharding.make_mesh(config.mesh)
    state = abstract_state(config, mesh)
    splits = sharding.shardings(parameters(config.model), mesh)
    seen = 0
    for name, leaf in arrays_of(state.opt_state):
        path = next((path for path in splits if name.endswith("/" + path)), None)
        if path is not None and leaf.shape == parameters(config.model)[path].shape:
            assert leaf.sharding == splits[path], name
            seen += leaf.sharding.spec != jax.P()
        else:
            assert leaf.sharding.spec == jax.P(), name
    stateless = isinstance(optimizer, Adafactor) or (isinstance(optimizer, SGD) and not optimizer.momentum)
    assert seen or stateless


def arrays_of(tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


RESUMED = [Muon(learning_rate=1e-2), Adafactor(min_dim_to_factor=8), ScheduleFreeAdamW()]


@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("optimizer", RESUMED, ids=lambda optimizer: type(optimizer).__name__)
def test_optimizer_resumes_to_the_bit(text, tmp_path, optimizer):
    """A run in two calls is the run in one call: the state of the optimizer is whole in its checkpoints."""
    config = dataclasses.replace(small(text, steps=4, model__num_layers=1), optimizer=optimizer)
    train(config, str(tmp_path / "whole"))
    train(dataclasses.replace(config, steps=2), str(tmp_path / "pieces"))
    train(config, str(tmp_path / "pieces"))
    assert saved_state(tmp_path / "pieces") == saved_state(tmp_path / "whole")
