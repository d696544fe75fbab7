"""Benchmarks: a paired runner (``python -m benchmarks.paired``), pytest-benchmark suites, and the peers."""
