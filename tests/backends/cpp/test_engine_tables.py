"""Codes and columns that cross the language boundary: the lists of csrc/plan/codes.h and of Python against each other."""

import importlib
from dataclasses import replace
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
import torch

from made_fast import MADE, build_config
from made_fast.masks.plan import GroupColumn, plan_from_mask
from made_fast.outputs import BernoulliConditional, Code, Encoding
from made_fast.programs import FUNCTIONS, Affine, Elementwise, Program
from made_fast.programs.schedule import Kind, StepColumn, build_schedule
from made_fast.programs.wiring import HEADS
from made_fast.requests.sums import SumColumn

pytestmark = pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")
if build_config()["compiled"]:
    cpp: Any = importlib.import_module("made_fast.backends.cpp.engine")
    networks: Any = importlib.import_module("made_fast.backends.cpp.networks")
    layout: Any = importlib.import_module("made_fast.backends.cpp.arrays")
    core: Any = cpp._core


def _enumerations() -> dict[str, type[IntEnum]]:
    return {
        "Kind": Kind,
        "Code": Code,
        "Encoding": Encoding,
        "Status": cpp.Status,
        "StepColumn": StepColumn,
        "VariableColumn": layout.VariableColumn,
        "SumColumn": SumColumn,
        "GroupColumn": GroupColumn,
        "NetworkColumn": networks.NetworkColumn,
    }


def test_both_languages_have_the_same_names_in_the_same_places() -> None:
    expected = {title: [each.name.lower() for each in enumeration] for title, enumeration in _enumerations().items()}
    assert core.tables() == {**expected, "Function": list(FUNCTIONS), "Head": list(HEADS)}
    for enumeration in _enumerations().values():
        assert [each.value for each in enumeration] == list(range(len(enumeration)))


def _arguments(model: MADE) -> dict[str, Any]:
    """The arguments of the native sampler of a model."""
    program = model.program()
    found: dict[str, Any] = layout.layout(program, build_schedule(program))
    found["conditionals"] = [core.Conditional(**each) for each in found["conditionals"]]
    found["affines"] = [core.Affine(**each) for each in found["affines"]]
    return found


@pytest.mark.parametrize("code", [len(FUNCTIONS), 99, -1, 2**32])
def test_a_function_code_that_is_unknown_is_refused(code: int) -> None:
    arguments = _arguments(MADE(5, (8,)))
    known = core.SamplerF32(**arguments)
    assert known.panel_macs > 0
    arguments["steps"][0, StepColumn.FUNCTION] = code
    with pytest.raises(
        ValueError, match=rf"Function {code} is unknown to this build, which has 0 \(identity\), 1 \(relu\)"
    ):
        core.SamplerF32(**arguments)


@pytest.mark.parametrize("kind", [len(Kind), -1])
def test_a_kind_of_step_that_is_unknown_is_refused(kind: int) -> None:
    arguments = _arguments(MADE(5, (8,)))
    arguments["steps"][0, StepColumn.KIND] = kind
    with pytest.raises(ValueError, match=rf"Kind {kind} is unknown to this build"):
        core.SamplerF32(**arguments)


@pytest.mark.parametrize(("name", "enumeration"), [("code", Code), ("encoding", Encoding)])
def test_a_conditional_that_is_unknown_is_refused(name: str, enumeration: type[IntEnum]) -> None:
    entry = layout._conditional(BernoulliConditional(), torch.float32)
    core.Conditional(**entry)
    entry[name] = len(enumeration)
    with pytest.raises(ValueError, match=rf"{enumeration.__name__} {len(enumeration)} is unknown to this build"):
        core.Conditional(**entry)


def test_an_activation_code_that_is_unknown_is_refused() -> None:
    unknown = len(FUNCTIONS)
    plan = plan_from_mask(np.ones((3, 4), dtype=np.bool_))
    x, weight, out = torch.ones(2, 4), torch.ones(3, 4), torch.zeros(2, 3)
    call = [cpp.instruction_set(), cpp._native(plan, "forward"), 2, x.data_ptr(), weight.data_ptr(), 4, 1, 0]
    assert core.masked_matmul_f32(*call, 0, out.data_ptr(), 1) == cpp.Status.OK
    assert torch.equal(out, torch.full((2, 3), 4.0))
    with pytest.raises(ValueError, match=rf"Function {unknown} is unknown to this build, which has 0 \(identity\)"):
        core.masked_matmul_f32(*call, unknown, out.data_ptr(), 1)


def _with_function(program: Program, function: str) -> Program:
    ops = tuple(replace(op, function=function) if isinstance(op, Elementwise) else op for op in program.ops)
    assert any(isinstance(op, Affine) for op in ops)
    return replace(program, ops=ops)


def test_a_function_that_only_python_has_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a function is in the table of Python, the engine must not take it for another."""
    functions = importlib.import_module("made_fast.programs.functions")
    monkeypatch.setitem(FUNCTIONS, "softsign", torch.nn.functional.softsign)
    monkeypatch.setitem(functions.FUNCTION_CODES, "softsign", len(functions.FUNCTION_CODES))
    model = MADE(5, (8,))
    program = _with_function(model.program(), "softsign")
    with pytest.raises(ValueError, match="the compiled module has no function 'softsign', it has identity, relu"):
        cpp.pack(program, build_schedule(program))
    plan = plan_from_mask(np.ones((3, 4), dtype=np.bool_))
    with pytest.raises(ValueError, match="no function 'softsign'"):
        cpp.masked_linear(torch.ones(2, 4), torch.ones(3, 4), plan, None, "softsign")


def test_functions_are_those_of_torch() -> None:
    """Every function of the table through the engine, so that a code never means another function."""
    x = torch.linspace(-3, 3, 30, dtype=torch.float64).view(-1, 1)
    plan = plan_from_mask(np.ones((1, 1), dtype=np.bool_))
    weight = torch.ones(1, 1, dtype=torch.float64)
    for name, function in FUNCTIONS.items():
        torch.testing.assert_close(cpp.masked_linear(x, weight, plan, None, name), function(x), rtol=1e-12, atol=1e-12)
