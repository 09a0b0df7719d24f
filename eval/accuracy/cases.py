"""Provide the cases that are measured: every op of the library, in every variant and implementation.

A case is read off the op's declaration: a new op or a new implementation needs no line here. Its truth is the function
of the same name in `eval.oracles`. Which regimes say something about an op follows from what it draws: gates, keys or
strengths.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from eval import oracles
from eval.accuracy.regimes import Regime
from recurrax import ops
from recurrax.ops.op import Op
from recurrax.ops.samplers import Samplers

SIZES = {"B": 1, "H": 2, "Hq": 2, "K": 32, "V": 32, "D": 64, "E": 64, "N": 16}
"""Sizes of the letters of arguments; an op that has other letters is measured with its own test sizes for them."""
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Case:
    """One op."""

    op: str
    """Its name."""
    run: Callable
    """The op; it takes its inputs by name."""
    oracle: Callable
    """(inputs, cotangents=) -> outputs, last state and gradients by name, in NumPy float64."""
    implementations: tuple[str, ...]
    """Names of its implementations, in order of preference."""
    variants: dict[str, frozenset[str]]
    """Its variants, such as kinds of decay, and what each of them draws by `Samplers`."""
    state: str
    """Name of the argument that is the incoming state."""
    without_state: frozenset[str]
    """The implementations that refuse an incoming state; they are measured without one."""
    draw: Callable[..., dict[str, np.ndarray]]
    """(generator, regime, variant, length) -> the inputs by name in float64 or complex128."""

    @property
    def outputs(self) -> tuple[str, str]:
        """Return the names of the outputs and of the last state on the page."""
        return "outputs", f"last {self.state}"

    def has(self, variant: str, dtype: str, regime: Regime) -> bool:
        """Return whether this is measured: no half precision of complex numbers, no regime of what is not drawn."""
        if "complex" in self.variants[variant] and dtype == "bfloat16":
            return False
        if self.op in regime.without:
            return False
        return regime.varies <= self.variants[variant]


def _case(op: Op) -> Case:
    def draw(rng, regime, variant, length):
        sizes = {letter: SIZES.get(letter, size) for letter, size in op.sizes.items()}
        return op.draw(rng, {**sizes, "T": length}, variant, regime.samplers)

    return Case(
        op.name,
        getattr(ops, op.name),
        getattr(oracles, op.name),
        tuple(op.implementations),
        {variant: _drawn(op, variant) for variant in op.variants},
        op.state,
        frozenset(name for name in op.implementations if _refuses_state(op, name)),
        draw,
    )


def _refuses_state(op: Op, implementation: str) -> bool:
    arguments = op.checked({**dict.fromkeys(op.arguments), **op.inputs()})
    return op.implementations[implementation].supports(arguments) is not None


def _drawn(op: Op, variant: str) -> frozenset[str]:
    """Return the names of the samplers that the op calls, and "complex" if one of its inputs is complex."""
    called = set()

    def noting(name, sampler):
        def sample(rng, shape):
            called.add(name)
            return sampler(rng, shape)

        return sample

    noted = Samplers(**{name: noting(name, sampler) for name, sampler in Samplers()._asdict().items()})
    inputs = op.draw(np.random.default_rng(0), dict(op.sizes), variant, noted)
    return frozenset(called | ({"complex"} if any(map(np.iscomplexobj, inputs.values())) else set()))


CASES = tuple(map(_case, ops.OPS.values()))
