"""One layer of linear attention, trained on regression in context, is a gradient step (von Oswald et al.)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from eval.tasks.claims.base import Check, Claim, Findings
from eval.tasks.claims.pictures import panels
from eval.tasks.seeds import TEST_SEED, squared, train
from recurrax.ops import linear_attention
from recurrax.tasks import LinearRegression
from recurrax.tasks.regression import best_rate, gradient_step, least_squares


def layer(params, inputs):
    """Return o_T W_o of linear attention without feature map, norm, gate or residual, (B,)."""
    q, k, v = (jnp.einsum("btf,fk->btk", inputs, params[name])[:, :, None] for name in "qkv")
    o, _ = linear_attention(q, k, v, scale=1 / inputs.shape[1])
    return o[:, -1, 0] @ params["out"]


def one_layer(budget: str, seeds: tuple[int, ...]) -> dict:
    """Return errors of a trained layer, of the best gradient step and of least squares, by seed."""
    task = LinearRegression(length=21, dim=5) if budget == "small" else LinearRegression(length=41, dim=20)
    width = task.features

    def init(key):
        keys = dict(zip("qkvo", jax.random.split(key, 4), strict=True))
        params = {name: jax.random.normal(keys[name], (width, width)) / math.sqrt(width) for name in "qkv"}
        return {**params, "out": jax.random.normal(keys["o"], (width,)) / math.sqrt(width)}

    trained = train(
        init,
        lambda params, batch: squared(layer(params, batch.inputs) - batch.targets[:, -1]),
        task,
        seeds,
        steps=3000 if budget == "small" else 30_000,
        batch_size=128,
        learning_rate=5e-3,
        weight_decay=0.0,
    )
    seen, test = task.batch(0, 0, 4000), task.batch(TEST_SEED, 0, 4000)
    truth, questions = test.targets[:, -1], test.inputs
    step = gradient_step(questions, best_rate(seen.inputs, seen.targets[:, -1]))
    answers = np.asarray(jax.vmap(layer, (0, None))(trained.params, questions), np.float64)
    slopes = np.asarray(jax.vmap(jax.vmap(_slope, (None, 0)), (0, None))(trained.params, jnp.asarray(questions)))
    slopes_of_step = (questions[:, :-1, -1:] * questions[:, :-1, :-1]).sum(1)
    return {
        "layer": np.square(answers - truth).mean(1).tolist(),
        "gradient step": float(np.square(step - truth).mean()),
        "least squares": float(np.square(least_squares(questions) - truth).mean()),
        "apart": (np.square(answers - step).mean(1) / np.square(step).mean()).tolist(),
        "cosine of slopes": _cosine(slopes, slopes_of_step).mean(1).tolist(),
        "shown": {"layer": answers[0, :300].tolist(), "step": step[:300].tolist()},
    }


def _slope(params, inputs):
    """Return d answer / d x of the question."""

    def answer(x):
        return layer(params, inputs.at[-1, :-1].set(x)[None])[0]

    return jax.grad(answer)(inputs[-1, :-1])


def _cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def compare(found: Findings) -> list[Check]:
    """Return the expectations of this claim and whether they hold."""
    if "one-layer" not in found.measurements:
        return []
    values = found.measurements["one-layer"].values
    step, squares, worst = values["gradient step"], values["least squares"], max(values["layer"])
    return [
        Check("squared error of the layer, worst seed", f"that of one step, {step:.4f}, within 2 %", f"{worst:.4f}",
              abs(worst / step - 1) < 0.02),
        Check("predictions apart, relative to their size, worst seed", "below 0.01", f"{max(values['apart']):.4f}",
              max(values["apart"]) < 0.01),
        Check("cosine of d answer / d x with the step's, worst seed", "above 0.99",
              f"{min(values['cosine of slopes']):.4f}", min(values["cosine of slopes"]) > 0.99),
        Check("squared error of least squares", "far below both: one step is not enough", f"{squares:.4f}",
              squares < step / 4),
    ]  # fmt: skip


def draw(figure: Figure, found: Findings) -> None:
    """Draw predictions of the layer over those of the gradient step."""
    values = found.measurements["one-layer"].values
    (axis,) = panels(figure, 1)
    axis.plot(values["shown"]["step"], values["shown"]["layer"], ".", markersize=3)
    axis.axline((0, 0), slope=1, color="gray", linewidth=0.7)
    axis.set(xlabel="one step of gradient descent", ylabel="trained layer, seed 0", title="300 predictions")


CLAIM = Claim(
    name="gradient-descent",
    title="One layer of linear attention learns one step of gradient descent",
    paper="arXiv 2212.07677",
    statement="A layer of linear attention with nothing around it is trained to answer y of the last x, where pairs "
    "(x, y = w^T x) come before it. What it computes is compared with one step of gradient descent from w = "
    "0 on those pairs, its rate the best there is: answers, and their derivatives by the last x.",
    compare=compare,
    experiments={"one-layer": one_layer},
    draw=draw,
)
