"""Reads what compilers make of a program: memory, work, communication, and the TPU compiler's estimate of time.

targets      names chips and slices, and gives their devices to compile for, on a machine that has none
compiled     compiles for a target, and reads memory, code size, collectives and estimate
estimate     adds up the TPU compiler's own estimate of cycles, by layer and pass
schedules    counts the cycles of kernels in the schedules that the TPU compiler writes
hlo          parses the text of a compiled program
cost         counts the matrix products, memory traffic and collectives of one device in it
traffic      estimates the bytes that a program reads and writes
collectives  reads the kind, group and size of each collective
chips        lists peak rates of named accelerators
"""
