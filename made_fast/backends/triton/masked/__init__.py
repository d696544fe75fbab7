"""Masked products on the GPU."""
