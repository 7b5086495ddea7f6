"""Sweeps over rows of logits, as Triton kernels and in plain torch; they know nothing of models.

Each operation is a file: its interface, which picks by `impl`, and the plain version. Its kernel is beside
it, in `<operation>_triton.py`, imported only when it is used. No sweep holds more than a few rows of its own.
"""
