"""Every op of the registry in every variant and implementation: its definition, documents, and the split law.

A new op or implementation needs no line here: inputs come from the op's declaration, the truth from `eval.oracles`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import oracles
from oracles.common import wide
from recurrax import ops
from recurrax.ops import OPS
from support.numerics import relative_error

CLOSE = 1e-5
CUT = 9
CASES = [(name, variant, each) for name, op in OPS.items() for variant in op.variants for each in op.implementations]
every_case = pytest.mark.parametrize(
    ("name", "variant", "implementation"), CASES, ids=[" ".join(filter(None, case)) for case in CASES]
)


class Case:
    """An op, its random inputs, and its programs, each compiled once."""

    def __init__(self, name, variant, implementation):
        self.op, self.implementation = OPS[name], implementation
        inputs = self.op.inputs(3, variant)
        arguments = self.op.checked({**dict.fromkeys(self.op.arguments), **inputs})
        self.in_time = [n for n, letters in arguments.letters.items() if "T" in letters]
        self.is_for_whole = self.op.implementations[implementation].supports(arguments) is not None
        if self.is_for_whole:
            del inputs[self.op.state]
        self.takes_reset = "reset" in self.op.arguments and not self.is_for_whole
        self.inputs = {argument: jnp.asarray(value) for argument, value in inputs.items()}
        self.both = jax.jit(self._values_and_gradients)

    def run(self, inputs, reset=None):
        given = {"reset": reset} if self.takes_reset else {}
        return getattr(ops, self.op.name)(**inputs, **given, implementation=self.implementation)

    def _values_and_gradients(self, inputs, reset, cotangents):
        values, pullback = jax.vjp(lambda inputs: self.run(inputs, reset), inputs)
        return values, pullback(cotangents)[0]

    @functools.cached_property
    def cotangents(self):
        rng = np.random.default_rng(4)

        def normal(like):
            imaginary = 1j * rng.standard_normal(like.shape) if jnp.iscomplexobj(like) else 0
            return jnp.asarray(rng.standard_normal(like.shape) + imaginary, like.dtype)

        return jax.tree.map(normal, jax.eval_shape(self.run, self.inputs))

    def resets(self):
        """At the first token, at neighbours, and at the last token, elsewhere in each sequence."""
        batch, length = self.inputs[self.in_time[0]].shape[:2]
        reset = np.zeros((batch, length), bool)
        reset[0, [4, 5, length - 1]] = True
        reset[1:, [0, 11]] = True
        return reset


@functools.cache
def case_of(*case):
    return Case(*case)


@every_case
def test_op_is_its_definition(name, variant, implementation):
    """Outputs, the last state and every gradient are those of the oracle, with documents and without."""
    case = case_of(name, variant, implementation)
    whole = np.zeros_like(case.resets())
    for reset in (whole, case.resets()) if case.takes_reset else (whole,):
        (outputs, state), gradients = case.both(case.inputs, reset, case.cotangents)
        given = {"reset": reset} if case.takes_reset else {}
        truth = getattr(oracles, name)(
            {**jax.tree.map(wide, case.inputs), **given}, cotangents=jax.tree.map(wide, case.cotangents)
        )
        assert relative_error(outputs, truth[0]) <= CLOSE
        assert relative_error(state, truth[1]) <= CLOSE
        for argument, gradient in gradients.items():
            assert relative_error(gradient, truth[2][argument]) <= CLOSE, argument


@every_case
def test_op_splits_anywhere(name, variant, implementation):
    """A call on the first tokens and one on the rest, from their state, are one call; a reset may follow the cut."""
    case = case_of(name, variant, implementation)
    if case.is_for_whole:
        with pytest.raises(ValueError, match="does not support .*use '"):
            case.run(OPS[name].inputs(3, variant))
        return
    reset = case.resets()
    reset[0, CUT] = True

    @jax.jit
    def in_two(inputs, reset):
        first, rest = (
            {name: x[:, part] if name in case.in_time else x for name, x in inputs.items()}
            for part in (slice(None, CUT), slice(CUT, None))
        )
        before, state = case.run(first, reset[:, :CUT])
        after, state = case.run({**rest, case.op.state: state}, reset[:, CUT:])
        return jnp.concatenate([before, after], 1), state

    want, _ = case.both(case.inputs, reset, case.cotangents)
    for got, each in zip(in_two(case.inputs, reset), want, strict=True):
        assert relative_error(got, each) <= CLOSE
