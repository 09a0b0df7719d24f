"""Provide forward-mode differentiation of the ops, inside a context.

The ops have custom backward passes, which save memory and time, but JAX cannot differentiate them in forward mode:
`jax.jvp`, `jax.jacfwd` and `jax.hessian` of an op raise an error that names this context. Within

    with recurrax.ops.forward_mode():
        jax.hessian(loss)(params)

JAX itself differentiates the ops, step by step, in forward and reverse mode. Gradients then store every intermediate
state, which the custom backward passes avoid. A function that was jitted outside is retraced inside.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_ACTIVE = jax.make_user_context(False)


def forward_mode():
    """Return a context in which ops, layers and models can also be differentiated in forward mode."""
    return _ACTIVE(True)


def is_forward_mode() -> bool:
    """Return whether the code runs, or is traced, inside `forward_mode`."""
    return _ACTIVE.value


def custom_vjp(function: Callable, nondiff_argnums: tuple[int, ...] = ()) -> Callable:
    """Return `jax.custom_vjp(function)`, and in `forward_mode` the function itself."""
    with_backward_pass = jax.custom_vjp(function, nondiff_argnums)

    @functools.wraps(function)
    def call(*arguments):
        if is_forward_mode():
            return function(*arguments)
        guarded = [x if i in nondiff_argnums else jax.tree.map(_backwards_alone, x) for i, x in enumerate(arguments)]
        return with_backward_pass(*guarded)

    call.defvjp = with_backward_pass.defvjp
    return call


def _backwards_alone(x):
    """Return x; the tangent of this identity cannot be computed but can be transposed."""
    return _identity.bind(x) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else x


def _refuse(*_, **__):
    raise TypeError(
        "forward-mode differentiation (jax.jvp, jax.jacfwd, jax.hessian, jax.linearize) of an op that has a backward "
        "pass of its own: run it inside of `with recurrax.ops.forward_mode():`"
    )


_identity, _tangent = Primitive("backwards_alone"), Primitive("backwards_alone_tangent")
for _primitive in (_identity, _tangent):
    _primitive.def_abstract_eval(lambda x: x)
    batching.defvectorized(_primitive)
_identity.def_impl(lambda x: x)
mlir.register_lowering(_identity, lambda context, x: [x])
ad.primitive_jvps[_identity] = lambda primals, tangents: (
    _identity.bind(*primals),
    tangents[0] if isinstance(tangents[0], ad.Zero) else _tangent.bind(tangents[0]),
)
_tangent.def_impl(_refuse)
mlir.register_lowering(_tangent, _refuse)
ad.deflinear2(_tangent, lambda cotangent, x: [cotangent])
