"""Look into jaxprs."""

import jax


def inner_jaxprs(equation):
    """Return the jaxprs among the parameters of an equation: bodies of loops, branches, calls."""
    values = jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns"))
    return [getattr(v, "jaxpr", v) for v in values if hasattr(v, "eqns") or hasattr(v, "jaxpr")]


def count_equations(jaxpr):
    """Return the number of equations of a jaxpr and of all jaxprs inside it."""
    return len(jaxpr.eqns) + sum(count_equations(inner) for e in jaxpr.eqns for inner in inner_jaxprs(e))
