"""Declare an op once: its arguments, how its state crosses a cut in time, its test inputs and its implementations.

From an `Op` come the checks of the arguments and their messages, the form that runs on a mesh, the choice of the
implementation, and the law tests, the accuracy tables and the benchmarks of every implementation. A new implementation
is one line of the mapping `implementations`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrax import checks
from recurrax.ops import dtypes, letters, platforms, sharding
from recurrax.ops.platforms import PLATFORMS
from recurrax.ops.samplers import Samplers
from recurrax.ops.summaries import SUMMARIES
from recurrax.types import ArrayLike, PyTree

_FORCED = jax.make_user_context(())


class Arguments(NamedTuple):
    """The arguments of a call, checked; `arguments["q"]` is an array, None or an option such as "chunk_size"."""

    values: dict[str, Any]
    """Arrays and options by name."""
    letters: dict[str, letters.Shape]
    """The letters of the axes of each array that is given."""
    sizes: dict[str, Any]
    """The size of each letter."""
    splits_time: bool
    """Whether a mesh splits the sequence."""

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


def everything(arguments: Arguments) -> str | None:
    """Support all arguments: the default of `Implementation.supports`."""
    del arguments


def everywhere(arguments: Arguments, platform: str) -> bool:
    """Prefer an implementation whenever it can run: the default of `Implementation.preferred`."""
    del arguments, platform
    return True


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute an op."""

    run: Callable[..., PyTree]
    """The function that the op's `compute` calls, with the same arguments by name for all implementations of an op."""
    platforms: tuple[str, ...] = PLATFORMS
    """The platforms on which it runs, names of `jax.lax.platform_dependent`."""
    supports: Callable[[Arguments], str | None] = everything
    """Return None for arguments that it supports, or the reason why it does not."""
    preferred: Callable[[Arguments, str], bool] = everywhere
    """Whether it is chosen for these arguments on this platform, if it supports them and no one before it is chosen."""
    backward: Callable[..., PyTree] | None = None
    """A kernel for the gradients, for an op whose `compute` has a backward pass of its own and asks for it."""
    interpret: bool = False
    """Whether `run` takes interpret=True and then runs on every platform, slowly: an interpreted kernel."""

    def __post_init__(self):
        unknown = [name for name in self.platforms if name not in PLATFORMS]
        if unknown or not self.platforms:
            raise ValueError(f"platforms must be some of {', '.join(PLATFORMS)}, got {self.platforms}")


@dataclasses.dataclass(frozen=True)
class Choice:
    """The implementations of one call: the name for each platform. It is hashable."""

    op: "Op"
    names: tuple[tuple[str, str], ...]
    """Pairs (platform, name)."""

    def __call__(self, arrays: dict[str, PyTree], **options: Any) -> PyTree:
        """Return run(**arrays, **options) of the implementation for the platform that runs the program."""
        return platforms.per_platform(functools.partial(self._run, options), self.forms(), arrays)

    def backward(self, name: str) -> Callable[..., PyTree] | None:
        """Return the kernel for the gradients of the implementation of this name, if it has one."""
        return self.op.implementations[name].backward

    def includes(self, name: str) -> bool:
        """Return whether the implementation of this name is chosen on any platform."""
        return any(name == chosen for _, chosen in self.names)

    def forms(self) -> dict[str, tuple[str, bool]]:
        """Return for each platform the name, and whether the kernel is interpreted there."""
        return {
            platform: (name, platform not in self.op.implementations[name].platforms) for platform, name in self.names
        }

    def _run(self, options, form, arrays):
        name, interpreted = form
        if interpreted:
            options = {**options, "interpret": True}
        return self.op.implementations[name].run(**arrays, **options)


def call(choice: Choice, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
    """Call the implementation with the arguments as they are: the default of `Op.compute`."""
    return choice(values)


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """The declaration of an op.

    Raises:
      ValueError: the declaration has no summary, or an implementation that no arguments can choose.
    """

    name: str
    arguments: Mapping[str, str]
    """Letters of each array, in the order in which they are checked (`recurrax.ops.letters`)."""
    results: tuple[str, str]
    """Letters of the outputs and of the last state."""
    implementations: Mapping[str, Implementation]
    """The implementations by name, in order of preference; "reference" is the step-by-step definition."""
    draw: Callable[[np.random.Generator, Mapping[str, int], str, Samplers], dict[str, ArrayLike]]
    """(rng, sizes, variant, samplers) -> float64 or complex128 arrays by name, the state included."""
    sizes: Mapping[str, int]
    """Sizes of letters in tests."""
    summary: Any = None
    """How the state crosses a cut in time: one of the classes of `recurrax.ops.summaries`. There is no default."""
    variants: tuple[str, ...] = ("",)
    """Kinds of arguments that run different code, such as decay per head or per channel."""
    state: str = "state"
    """Name of the argument that is the incoming state."""
    heads: str = "H"
    """Letter of the axis that a mesh splits like heads."""
    complex: tuple[str, ...] = ()
    """Arguments that may be complex."""
    one_dtype: tuple[str, ...] = ()
    """Arguments that must have the same dtype."""
    logarithms: tuple[str, ...] = ()
    """Arguments that are logarithms of factors of at most 1: values that are known and above 0 are refused."""
    constants: tuple[str, ...] = ()
    """Arguments that stay constants of the program if all of them are NumPy arrays."""
    compute: Callable[[Choice, dict[str, Any]], tuple[PyTree, PyTree]] = call
    """(choice, arguments) -> (outputs, state) for checked arguments, on a mesh for those of one device."""
    check: Callable[[Arguments], None] = everything
    """Raise ValueError for arguments whose letters and dtypes fit, but which the op does not take."""

    def __post_init__(self):
        if not isinstance(self.summary, SUMMARIES):
            raise ValueError(
                f"op {self.name!r} does not say how its state crosses a cut in time: summary must be one of "
                f"{', '.join(kind.__name__ for kind in SUMMARIES)}, got {self.summary!r}"
            )
        if "reference" not in self.implementations:
            raise ValueError(f"op {self.name!r} has no implementation 'reference', its definition step by step")
        object.__setattr__(self, "implementations", MappingProxyType(dict(self.implementations)))
        for name, implementation in self.implementations.items():
            if implementation.supports is not everything:
                self._check_satisfiable(name, implementation)

    def __call__(self, implementation: str | None, **values: Any) -> tuple[PyTree, PyTree]:
        """Check the arguments, choose the implementation, and run it, on a mesh in its sharded form."""
        arguments = self.checked(values)
        return self.run(self.choose(implementation, arguments), arguments)

    def checked(self, values: Mapping[str, Any], *, convert: bool = True) -> Arguments:
        """Return the arguments with arrays converted to JAX's.

        Raises:
          ValueError: shapes or dtypes do not fit, a known logarithm is above 0, or the chunk size is below 1.
        """
        values = dict(values)
        constant = self.constants and all(isinstance(values[name], np.ndarray) for name in self.constants)
        for name in self.arguments.keys() & values.keys():
            if values[name] is None:
                continue
            if name in self.logarithms:
                _check_logarithm(name, values[name])
            if convert and not (constant and name in self.constants):
                values[name] = jnp.asarray(values[name])
        found, sizes = {}, {}
        for name, declaration in self.arguments.items():
            array = values.get(name)
            if array is not None and name == "reset":
                letters.check_reset(array, (sizes["B"], sizes["T"]))
            if array is not None:
                found[name] = letters.match(name, array.shape, declaration, sizes)
            elif not letters.is_optional(declaration):
                raise ValueError(f"{name} must be an array ({declaration.replace(' ', ', ')}), got None")
        real = {name: values[name] for name in found if name != "reset"}
        letters.check_dtypes(real, self.complex, self.one_dtype)
        if (chunk_size := values.get("chunk_size")) is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        arguments = Arguments(values, found, sizes, sizes["T"] > 1 and sharding.splits_time())
        self.check(arguments)
        return arguments

    def choose(self, implementation: str | None, arguments: Arguments) -> Choice:
        """Return the choice for each platform; a name forces one implementation on all of them.

        Raises:
          ValueError: no implementation has that name, or it does not support the arguments.
        """
        forced = implementation or dict(_FORCED.value).get(self.name)
        if forced is None:
            return Choice(self, tuple((platform, self._best(arguments, platform)) for platform in PLATFORMS))
        if forced not in self.implementations:
            raise ValueError(
                f"unknown implementation {forced!r}{checks.hint(forced, self.implementations)}; choose one of "
                f"{', '.join(map(repr, self.implementations))}, or None for the best one on the program's platform"
            )
        chosen = self.implementations[forced]
        if (reason := chosen.supports(arguments)) is not None:
            others = [repr(name) for name, each in self.implementations.items() if each.supports(arguments) is None]
            raise ValueError(f"implementation {forced!r} of {self.name} {reason}; use {' or '.join(others)}")
        runs_on = PLATFORMS if chosen.interpret else chosen.platforms
        if not set(runs_on) & set(here := platforms.candidates()):
            others = [
                name
                for name, each in self.implementations.items()
                if set(here) & set(each.platforms) and each.supports(arguments) is None
            ]
            raise ValueError(
                f"implementation {forced!r} of {self.name} does not run on {' or '.join(here)}; "
                f"use {' or '.join(map(repr, others))}"
            )
        return Choice(self, tuple((platform, forced) for platform in runs_on))

    def run(self, choice: Choice, arguments: Arguments) -> tuple[PyTree, PyTree]:
        """Run the chosen implementation; under a mesh each device runs it on its own rows, heads and segment of time.

        Raises:
          ValueError: a mesh cannot split the sequence into equal shards.
        """
        return sharding.split(
            functools.partial(self.compute, choice),
            arguments.values,
            {
                name: letters.on_mesh(shape, self.heads, arguments.values[name].shape)
                for name, shape in arguments.letters.items()
            },
            tuple(letters.on_mesh(letters.alternatives(each)[0], self.heads) for each in self.results),
            state=self.state,
            summary=self.summary,
            constants=self.constants,
        )

    def inputs(
        self,
        seed: int = 0,
        variant: str | None = None,
        *,
        samplers: Samplers = Samplers(),  # noqa: B008 (immutable)
        dtype: Any = np.float32,
        **sizes: int,
    ) -> dict[str, ArrayLike]:
        """Return random arguments by name, the state included, in this real dtype or its complex one."""
        variant = self.variants[0] if variant is None else variant
        checks.choice("variant", variant, self.variants)
        drawn = self.draw(np.random.default_rng(seed), {**self.sizes, **sizes}, variant, samplers)
        wide = dtypes.wide_dtype(dtype)  # of a state, which is never rounded
        complex_ = dtypes.wide_dtype(dtype, np.complex64)
        return {
            name: np.asarray(x, complex_ if np.iscomplexobj(x) else wide if name == self.state else dtype)
            for name, x in drawn.items()
        }

    def _best(self, arguments, platform):
        reasons = []
        for name, each in self.implementations.items():
            reason = each.supports(arguments)
            if reason is None and platform in each.platforms and each.preferred(arguments, platform):
                return name
            reasons.append(f"{name!r} {reason or f'does not run on {platform}'}")
        raise ValueError(f"no implementation of {self.name} supports these arguments: {'; '.join(reasons)}")

    def _check_satisfiable(self, name, implementation):
        """Raise ValueError if `supports` refuses the test inputs of all variants, with and without optional ones."""
        reasons = set()
        for variant in self.variants:
            drawn = self.inputs(variant=variant)
            bare = {name: x for name, x in drawn.items() if not letters.is_optional(self.arguments[name])}
            for values in (drawn, bare):
                given = {**dict.fromkeys(self.arguments), **values}
                reasons.add(implementation.supports(self.checked(given, convert=False)))
        if None not in reasons:
            raise ValueError(
                f"implementation {name!r} of {self.name} can never be chosen: it refuses all test inputs of the op, "
                f"because it {'; '.join(sorted(reasons))}"
            )


def implementations(**names: str):
    """Return a context in which these ops run the named implementation, unless a call names one itself.

    `with recurrax.ops.implementations(delta_rule="reference"):` runs a whole model by the definition of its op. A
    function that was jitted outside is retraced inside.
    """
    return _FORCED((*_FORCED.value, *names.items()))


def _check_logarithm(name, value):
    """Raise ValueError if the value is known and above 0: of NumPy and JAX arrays, constants of a trace included."""
    if checks.is_known(value):
        known = np.asarray(value)
        if known.size and not (largest := known.max()) <= 0:
            raise ValueError(f"{name} must be <= 0, the logarithm of a factor of at most 1; its largest is {largest}")
