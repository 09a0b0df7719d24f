"""The Triton kernels of flash-linear-attention, in the same process and on the same inputs as all others.

They run where `torch` and `fla` can be imported and both torch and JAX see a CUDA GPU, and are in no table elsewhere.
Written for fla-core 0.6. JAX takes three quarters of a GPU's memory at its start; XLA_PYTHON_CLIENT_MEM_FRACTION leaves
torch more.
"""

import functools
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator

import jax

from eval.bench.contestants.base import Contestant
from eval.bench.programs import Program

# By op and decay: the kernel's name, and how it is called with the op's arguments.
KERNELS: dict[tuple[str, str], tuple[str, Callable]] = {
    ("linear_attention", ""): ("chunk_simple_gla", lambda f, q, k, v: f(q, k, v)),
    ("linear_attention", "scalar"): ("chunk_simple_gla", lambda f, q, k, v, g: f(q, k, v, g=g)),
    ("linear_attention", "channel"): ("chunk_gla", lambda f, q, k, v, g: f(q, k, v, g=g)),
    ("delta_rule", ""): ("chunk_delta_rule", lambda f, q, k, v, beta: f(q, k, v, beta=beta)),
    ("delta_rule", "scalar"): ("chunk_gated_delta_rule", lambda f, q, k, v, beta, g: f(q, k, v, g=g, beta=beta)),
    ("delta_rule", "channel"): ("chunk_kda", lambda f, q, k, v, beta, g: f(q, k, v, g=g, beta=beta)),
    ("delta_product", "scalar"): (
        "chunk_gated_delta_product",
        lambda f, q, k, v, beta, g: f(
            *(q, k.flatten(1, 2), v.flatten(1, 2)), g=g, beta=beta.flatten(1, 2), num_householder=k.shape[2]
        ),
    ),
    ("dplr_rule", "channel"): ("chunk_dplr_delta_rule", lambda f, q, k, v, a, b, g: f(q, k, v, a=a, b=b, gk=g)),
}

GPUS = ("cuda", "rocm")
# Its products are in TF32 or bfloat16, whatever the inputs are.
TOLERANCE = 5e-2


def contestants(op: str, decay: str) -> Iterator[Contestant]:
    """The kernel that computes this op with this decay, if there is one."""
    if (op, decay) in KERNELS:
        kernel, call = KERNELS[op, decay]
        run = functools.partial(_run, kernel, call)
        yield Contestant(f"fla {kernel}", run, start=_start, platforms=GPUS, is_here=_is_here, tolerance=TOLERANCE)


def _is_here():
    if not all(map(importlib.util.find_spec, ("torch", "fla"))):
        return False
    return importlib.import_module("torch").cuda.is_available()


def _run(kernel, call, *tensors):
    """The outputs of K^-1/2 S^T q, which is the kernels' default scale too, without the last state."""
    return call(getattr(importlib.import_module("fla.ops"), kernel), *tensors)[0]


def _start(run, direction, inputs):
    """The first call compiles and tunes; the second tells how much memory a call takes."""
    torch = importlib.import_module("torch")
    tensors = [torch.from_dlpack(x).clone().requires_grad_(direction == "backward") for x in inputs]

    def call():
        if direction == "forward":
            with torch.no_grad():
                outputs = run(*tensors)
        else:
            o = run(*tensors)
            outputs = o.detach(), torch.autograd.grad(o, tensors, 2 * o.detach())
        torch.cuda.synchronize()
        return outputs

    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    outputs = jax.tree.leaves(call())
    taken = torch.cuda.max_memory_allocated() - before - sum(x.nbytes for x in outputs)
    return Program(call, seconds, taken / 2**20, lambda x: x.float().cpu().numpy())
