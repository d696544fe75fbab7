"""The paper's tables, trained anew: ``python -m benchmarks paper``."""
