"""One OpenMP in a process: with a second pool of threads torch and the compiled module in turns took 500 times as long."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import made_fast

COMPILED = made_fast.build_config()["compiled"]
LIBRARY = re.compile(r"lib(?:gomp|omp|iomp5)\b[^/]*\.so")


def _mapped(code: str) -> set[str]:
    """The OpenMP libraries that a new process has mapped after some code."""
    command = [sys.executable, "-c", f"{code}\nprint(open('/proc/self/maps').read())"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return {line.split()[-1] for line in done.stdout.splitlines() if LIBRARY.search(line)}


@pytest.mark.skipif(not COMPILED or not Path("/proc/self/maps").exists(), reason="needs the compiled module and Linux")
def test_the_compiled_module_brings_no_second_openmp() -> None:
    with_torch = _mapped("import torch; torch.ones(2).sum()")
    draw = "from made_fast import MADE; MADE(8, (8,)).sample(100, backend='cpp')"
    assert with_torch
    assert _mapped(draw) == with_torch


@pytest.mark.skipif(not COMPILED, reason="the compiled module is not installed")
def test_the_number_of_threads_is_that_of_torch() -> None:
    code = "import torch; torch.set_num_threads(3); import made_fast; print(made_fast.build_config()['threads'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["3"]
