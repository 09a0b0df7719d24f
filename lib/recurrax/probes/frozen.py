"""A layer's program run on other values, everything that was computed from the true ones taken as given.

With gates, keys and norms as coefficients a layer is linear in its values (`recurrax.mixers.marks`). So its program is
run as it is and, beside that, on values put in the place of the true ones. In this second run a nonlinear function, a
comparison or a marked coefficient gives what it gave in the first; all else is computed anew. No formula is written
twice.
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
"""Calls whose programs are looked into, and where they have them. Loops and functions with a backward pass of their own
are run as they are: the recurrences, linear in what is written into their states."""

NONLINEAR = (
    {"exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "erf", "erfc", "erf_inv", "digamma", "lgamma"}
    | {"sqrt", "rsqrt", "cbrt", "square", "pow", "integer_pow", "abs", "sign", "floor", "ceil", "round", "rem"}
    | {"sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh"}
    | {"reduce_max", "reduce_min", "reduce_prod", "cummax", "cummin", "cumprod", "cumlogsumexp", "sort"}
)
PRODUCTS = {"mul", "dot_general", "conv_general_dilated"}


class Both(NamedTuple):
    """What an array is, and what it is in the second run: None where it does not depend on the values."""

    true: Any  # an array, or a constant of the program in JAX's own wrapping
    moved: Array | None = None

    @property
    def second(self) -> Any:
        return self.true if self.moved is None else self.moved


class FrozenRun:
    """Runs a program; afterwards `marks` holds the marked arrays by their names, and `mixed` both of what is mixed.

    Args:
      owner: named in errors.
      put: (the mark's name, the true values) -> those of the second run. None: there is no second run.
    """

    def __init__(self, owner: str, put: Callable[[str, Array], Array] | None = None):
        self.owner, self.put = owner, put
        self.marks, self.mixed = {}, None

    def __call__(self, program: ClosedJaxpr, *arguments: Array) -> list[Array]:
        """The program's results.

        Raises:
          ValueError: a product or quotient in which both factors depend on the values.
        """
        return [out.true for out in self._run(program.jaxpr, program.consts, [Both(a) for a in arguments])]

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
        self.marks.setdefault(name, []).append(x.true)
        if name.startswith("values") and self.put is not None:
            return Both(x.true, self.put(name, x.true))
        if name == "mixed":
            self.mixed = x
        return Both(x.true) if name == "coefficients" else x

    def _moved(self, jaxpr, equation, inputs, true):
        """The outputs of the second run."""
        name, depends = equation.primitive.name, [x.moved is not None for x in inputs]
        if not any(depends) or name in NONLINEAR:
            return [None] * len(true)
        if (name in PRODUCTS and sum(depends) > 1) or (name == "div" and depends[1]):
            raise ValueError(
                f"{self.owner}: {name} of two arrays that both depend on the values; mark one of them as coefficients"
            )
        if name in ("max", "min"):  # which of the two it is does not change
            a, b = inputs
            first = a.true >= b.true if name == "max" else a.true <= b.true
            return [jnp.where(first, a.second, b.second)]
        moved = _evaluate(jaxpr, equation, [x.second for x in inputs])
        return [m if jnp.issubdtype(t.dtype, jnp.inexact) else None for m, t in zip(moved, true, strict=True)]


def _evaluate(jaxpr, equation, inputs):
    """One equation's outputs, by the program that is this equation alone."""
    variables = {v: x for v, x in zip(equation.invars, inputs, strict=True) if not hasattr(v, "val")}
    alone = jaxpr.replace(constvars=[], invars=list(variables), outvars=equation.outvars, eqns=[equation])
    return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*variables.values())
