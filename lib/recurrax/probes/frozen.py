"""Linearise a layer in its values: re-run its program while every nonlinearity keeps the output of the original run.

With gates, keys and norms as coefficients a layer is linear in its values (`recurrax.mixers.marks`). Its program is run
as it is and, beside that, on substitute values. In this second run a nonlinear function, a comparison or a marked
coefficient keeps the output of the first; everything else is computed anew. So no formula is written twice.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from recurrax.types import Array

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}
"""Primitives that call a program, which is examined, and the parameter that holds it. Loops and functions with a custom
backward pass are run as they are: these are the recurrences, which are linear in what they write into their states."""

NONLINEAR = (
    {"exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "erf", "erfc", "erf_inv", "digamma", "lgamma"}
    | {"sqrt", "rsqrt", "cbrt", "square", "pow", "integer_pow", "abs", "sign", "floor", "ceil", "round", "rem"}
    | {"sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh"}
    | {"reduce_max", "reduce_min", "reduce_prod", "cummax", "cummin", "cumprod", "cumlogsumexp", "sort"}
)
PRODUCTS = {"mul", "dot_general", "conv_general_dilated"}


class NotLinear(ValueError):
    """A layer is not linear in its values."""


class Both(NamedTuple):
    """An array in the original run and in the second one, there None if it does not depend on the values."""

    true: Any  # an array, or a constant of the program in JAX's own wrapping
    moved: Array | None = None

    @property
    def second(self) -> Any:
        """The array of the second run."""
        return self.true if self.moved is None else self.moved


class FrozenRun:
    """Run a program on substitute values; afterwards `mixed` is the marked array of the second run.

    Args:
      owner: the layer's name in errors.
      substitute: (name of the mark, values of the original run) -> values of the second run.
    """

    def __init__(self, owner: str, substitute: Callable[[str, Array], Array]):
        self.owner, self.substitute = owner, substitute
        self.mixed: Array | None = None

    def __call__(self, program: ClosedJaxpr, *arguments: Array) -> None:
        """Run the program.

        Raises:
          NotLinear: a product or quotient in which both factors depend on the values.
        """
        self._run(program.jaxpr, program.consts, [Both(a) for a in arguments])

    def _run(self, jaxpr, consts, arguments):
        known = dict(zip(jaxpr.constvars, map(Both, consts), strict=True))
        known.update(zip(jaxpr.invars, arguments, strict=True))
        for equation in jaxpr.eqns:
            inputs = [Both(v.val) if hasattr(v, "val") else known[v] for v in equation.invars]
            name = equation.primitive.name
            if name == "name":
                outputs = [self._marked(equation.params["name"], *inputs)]
            elif name in CALLS:
                inner = equation.params[CALLS[name]]
                outputs = self._run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
            else:
                true = _evaluate(jaxpr, equation, [x.true for x in inputs])
                outputs = map(Both, true, self._moved(jaxpr, equation, inputs, true))
            known.update(zip(equation.outvars, outputs, strict=True))
        return [Both(v.val) if hasattr(v, "val") else known[v] for v in jaxpr.outvars]

    def _marked(self, name, x):
        if name.startswith("values"):
            return Both(x.true, self.substitute(name, x.true))
        if name == "mixed":
            self.mixed = x.second
        return Both(x.true) if name == "coefficients" else x

    def _moved(self, jaxpr, equation, inputs, true):
        """Return the outputs of the second run."""
        name, depends = equation.primitive.name, [x.moved is not None for x in inputs]
        if not any(depends) or name in NONLINEAR:
            return [None] * len(true)
        if (name in PRODUCTS and sum(depends) > 1) or (name == "div" and depends[1]):
            raise NotLinear(
                f"{self.owner}: {name} of two arrays that both depend on the values; mark one of them as coefficients"
            )
        if name in ("max", "min"):  # the choice between the two is that of the original run
            a, b = inputs
            first = a.true >= b.true if name == "max" else a.true <= b.true
            return [jnp.where(first, a.second, b.second)]
        moved = _evaluate(jaxpr, equation, [x.second for x in inputs])
        return [m if jnp.issubdtype(t.dtype, jnp.inexact) else None for m, t in zip(moved, true, strict=True)]


def _evaluate(jaxpr, equation, inputs):
    """Return one equation's outputs, by a program of this equation alone."""
    variables = {v: x for v, x in zip(equation.invars, inputs, strict=True) if not hasattr(v, "val")}
    alone = jaxpr.replace(constvars=[], invars=list(variables), outvars=equation.outvars, eqns=[equation])
    return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*variables.values())
