"""Causal filters as long as the sequence, by FFT."""
