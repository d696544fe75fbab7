"""What the Triton kernels are compiled to: ``python -m benchmarks triton_static``."""
