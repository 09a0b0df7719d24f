"""What Pallas TPU kernels of matrix states share: they go along a sequence chunk by chunk, the state on the chip."""
