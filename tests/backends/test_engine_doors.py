"""Engines meet functions and conditionals that they lack: they load, say so, and leave the work to those that have them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from enum import IntEnum
from typing import Any

import pytest
import torch

from made_fast.backends import BACKENDS
from made_fast.outputs.codes import Code
from made_fast.programs.functions import FUNCTION_CODES, FUNCTIONS

ROWS = {row.name: row for row in BACKENDS}
ENGINES = [name for name in ("numba", "triton") if ROWS[name].missing is None]

# What a contributor writes, read in place of the file before anything of the package is imported.
PATCH = """
import importlib.util, pathlib, sys, types
root = pathlib.Path(importlib.util.find_spec("made_fast").origin).parent

def patch(name, old, new):
    path = root.joinpath(*name.split(".")).with_suffix(".py")
    text = path.read_text()
    assert text.count(old) == 1
    module = sys.modules["made_fast." + name] = types.ModuleType("made_fast." + name)
    module.__file__ = str(path)
    exec(compile(text.replace(old, old + new), str(path), "exec"), module.__dict__)
"""

FUNCTION = """
patch("programs.functions", '    "reciprocal": torch.reciprocal,\\n', '    "sin": torch.sin,\\n')
import torch
from made_fast import MADE
torch.manual_seed(0)
model, word = MADE(5, (16,), activation="sin"), "function 'sin'"
"""

CONDITIONAL = """
patch("outputs.codes", "    POINT = 7\\n", "    UNIFORM = 8\\n")
import torch
from made_fast import MADE
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.output import Output

class UniformConditional(Conditional):
    code = Code.UNIFORM
    def log_prob(self, params, x):
        return torch.zeros_like(x)
    def draw(self, params, uniforms, decoding=None):
        return params[..., 0] + uniforms[..., 0]

class Uniform(Output):
    name = "uniform"
    def conditionals(self, features):
        return (UniformConditional(),) * features

torch.manual_seed(0)
model, word = MADE(5, (16,), output=Uniform()), "output 'uniform'"
"""

CHECK = """
from made_fast import backends
from made_fast.programs.schedule import build_schedule
from made_fast.testing import naive_sample
x, log_prob = model.sample_and_log_prob(50, seed=3, backend="auto")
expected = naive_sample(model, 50, seed=3)
torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
torch.testing.assert_close(log_prob, model.log_prob(x), rtol=1e-4, atol=1e-5)
program = model.program()
for name in ENGINES:
    row = next(row for row in backends.BACKENDS if row.name == name)
    module = backends.load(row)  # it still loads, and draws what it knows
    plain = MADE(4, (8,))
    module.pack(plain.program(), build_schedule(plain.program()))
    for call in (lambda: model.sample(5, backend=name), lambda: module.pack(program, build_schedule(program))):
        try:
            call()
        except ValueError as error:
            print(error)
            assert name in str(error) and word in str(error) and "only " in str(error), error
        else:
            raise AssertionError(f"{name} must refuse it")
"""


@pytest.mark.parametrize("addition", [FUNCTION, CONDITIONAL], ids=["function", "conditional"])
def test_what_an_engine_lacks_is_refused_by_its_name(addition: str) -> None:
    code = "\n".join([PATCH, f"ENGINES = {ENGINES}", addition, CHECK])
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # so that its row takes tensors of the CPU
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 * len(ENGINES)


def test_rows_state_what_engines_know() -> None:
    if "numba" in ENGINES:
        functions: Any = importlib.import_module("made_fast.backends.numba.functions")
        conditionals: Any = importlib.import_module("made_fast.backends.numba.conditionals")
        slopes: Any = importlib.import_module("made_fast.backends.numba.networks.slopes")
        assert set(ROWS["numba"].functions) == set(functions.FUNCTIONS) == set(slopes.SLOPES)
        assert set(ROWS["numba"].outputs) == {code.name.lower() for code in conditionals.CONDITIONALS}
    if "triton" in ENGINES:
        functions = importlib.import_module("made_fast.backends.triton.functions")
        codes: Any = importlib.import_module("made_fast.backends.triton.codes")
        assert set(ROWS["triton"].functions) == set(functions.KNOWN_FUNCTIONS)
        assert set(ROWS["triton"].outputs) == {code.name.lower() for code in codes.KNOWN_CODES}
    for name in ENGINES:
        assert set(ROWS[name].functions) <= set(FUNCTIONS)
        assert set(ROWS[name].outputs) <= {code.name.lower() for code in Code}


@pytest.mark.parametrize(
    "module",
    [
        *("masks.plan", "programs.schedule", "backends.numba.draw_kernel", "backends.numba.networks.plan"),
        "backends.triton.columns",
    ],
)
def test_columns_are_numbered_from_zero(module: str) -> None:
    """Rows are written in the order of the names, read by their numbers."""
    found: Any = pytest.importorskip(f"made_fast.{module}", exc_type=ImportError)
    enumerations = [each for each in vars(found).values() if isinstance(each, type) and issubclass(each, IntEnum)]
    columns = [each for each in enumerations if each is not IntEnum]
    assert columns
    for enumeration in columns:
        assert [each.value for each in enumeration] == list(range(len(enumeration))), enumeration.__name__


@pytest.mark.skipif("numba" not in ENGINES, reason="numba is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numba_has_the_functions_of_torch(dtype: torch.dtype) -> None:
    functions: Any = importlib.import_module("made_fast.backends.numba.functions")
    x = torch.tensor([-3.0, -0.7, -1e-3, 1e-3, 0.4, 2.5], dtype=dtype)
    for name in functions.FUNCTIONS:
        found = [functions.apply_function(FUNCTION_CODES[name], value) for value in x.numpy()]
        torch.testing.assert_close(torch.tensor(found, dtype=dtype), FUNCTIONS[name](x), rtol=2e-6, atol=1e-6)
