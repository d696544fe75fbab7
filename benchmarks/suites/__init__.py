"""The suites that need nothing but a processor; each is a command of ``python -m benchmarks``."""
