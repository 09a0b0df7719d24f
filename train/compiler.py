"""Sets options of compilers, each with its reason.

A TPU's partitioner multiplies by a matrix that `fsdp` splits along the summed dimension in turns, one shard at a time,
while the next shard arrives. The running sum is stored in the dtype of the result between the turns: bfloat16, where
one product would add up in float32 and round once (`train.precision`). By the compiler's own estimate the turns also
take 5 to 15 times the cycles of a product with the gathered matrix. `OPTIONS` makes it gather.

XLA's CPU compiler has fusions that compute wrong numbers: jaxlib 0.10.2 and 0.11.0 pass chains of matrix products to a
library that computes some of them wrongly, without a warning (jax-ml/jax issues 39103, 39257, 40412): the outputs of
two layers of DeltaNet with one head, on 128 sequences of 32 tokens, are off by more than their size. Without these
fusions they are right, attention is faster, and recurrences are a tenth slower.
"""

import importlib.metadata
import os

UNSOUND = ("0.10.2", "0.11.0")
"""Affected versions of jaxlib. Other versions may not know the flag, and XLA ends the process at an unknown flag."""
FLAG = "--xla_cpu_experimental_ynn_fusion_type"

OPTIONS: dict[str, dict[str, bool | int | str]] = {
    "tpu": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000},  # no product is that large
}
"""Options of the programs of training and evaluation, by platform."""


def avoid_unsound_fusions() -> None:
    """Set XLA's environment variable, before JAX starts XLA. A flag that the user has set stays."""
    flags = os.environ.get("XLA_FLAGS", "")
    if importlib.metadata.version("jaxlib") in UNSOUND and FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=".strip()
