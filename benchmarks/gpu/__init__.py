"""On a GPU: ``python -m benchmarks gpu`` and ``gpu_checks``."""
