"""A whole draw in one launch: how a program is laid out in time, and the kernels that run it."""
