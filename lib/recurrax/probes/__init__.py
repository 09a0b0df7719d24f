"""Looking into trained models: what a layer's state remembers, and which tokens it mixes into which."""

from recurrax.probes.reconstruction import linear_reconstruction

__all__ = ["linear_reconstruction"]
