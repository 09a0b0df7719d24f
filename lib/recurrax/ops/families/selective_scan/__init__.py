"""Mamba's recurrence: a state of N numbers per channel whose decay, input and output look at the sequence."""
