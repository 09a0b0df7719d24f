"""Keeping XLA's CPU compiler from fusions that compute wrong numbers.

jaxlib 0.10.2 and 0.11.0 hand chains of matrix products to a library that gets some of them wrong, without a word
(jax-ml/jax issues 39103, 39257, 40412): two layers of DeltaNet with one head, on 128 sequences of 32 tokens, are off by
more than their size. Without these fusions they are right, attention is faster and recurrences are a tenth slower.
"""

import importlib.metadata
import os

UNSOUND = ("0.10.2", "0.11.0")
"""Versions of jaxlib. Others may not know the flag, and XLA ends the process where it does not know one."""
FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def avoid_unsound_fusions() -> None:
    """Tells XLA by its environment variable, before JAX has started it; whoever set the flag keeps their choice."""
    flags = os.environ.get("XLA_FLAGS", "")
    if importlib.metadata.version("jaxlib") in UNSOUND and FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=".strip()
