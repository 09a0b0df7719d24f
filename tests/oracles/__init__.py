"""What ops, mixers and projections are, step by step in NumPy float64. Imports no JAX: shares no bug with the library.

A mixer's oracle is written from its paper's equations, one token at a time, and takes what the layer's function takes:
parameters by their names, x (B, T, D), reset (B, T) or None, the config for numbers that are no arrays.
"""
