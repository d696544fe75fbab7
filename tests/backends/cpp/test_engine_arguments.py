"""Calls of the compiled module with arrays that do not fit raise; none of them reads outside of an array."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from made_fast import MADE, build_config
from made_fast.masks.plan import GroupColumn, plan_from_degrees, plan_from_mask
from made_fast.outputs import Categorical, Mixed, Normal
from made_fast.programs.schedule import Kind, StepColumn, build_schedule
from made_fast.requests.sums import MOST_SUMS

pytestmark = pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")
if build_config()["compiled"]:
    cpp: Any = importlib.import_module("made_fast.backends.cpp.engine")
    layout: Any = importlib.import_module("made_fast.backends.cpp.arrays")
    core: Any = cpp._core

Arguments = dict[str, Any]


def _arguments() -> Arguments:
    """What describes a program with context, categories looked up and embedded, and real numbers; parts as dictionaries."""
    output = Mixed([Normal(), Categorical(7), Categorical(6, embedding=2), Normal(), Categorical(3)])
    program = MADE(5, (9, 8), output=output, context_features=2, residual=False).program()
    found: Arguments = layout.layout(program, build_schedule(program))
    return found


def _pack(arguments: Arguments) -> Any:
    arguments = dict(arguments)
    arguments["conditionals"] = [core.Conditional(**each) for each in arguments["conditionals"]]
    arguments["affines"] = [core.Affine(**each) for each in arguments["affines"]]
    return core.SamplerF32(**arguments)


def _put(table: str, column: str, value: int, row: int = 0) -> Callable[[Arguments], None]:
    """Puts a number into a table with named columns."""

    def put(arguments: Arguments) -> None:
        columns = StepColumn if table == "steps" else layout.VariableColumn
        arguments[table][row, columns[column]] = value

    return put


def _put_step(kind: Kind, column: StepColumn, value: int) -> Callable[[Arguments], None]:
    """Puts a number into the first step of a kind."""

    def put(arguments: Arguments) -> None:
        steps = arguments["steps"]
        steps[np.flatnonzero(steps[:, StepColumn.KIND] == kind)[0], column] = value

    return put


def _part(name: str, key: str, change: Callable[[Any], Any], number: int = 0) -> Callable[[Arguments], None]:
    """Changes one argument of a conditional or an affine operation."""

    def put(arguments: Arguments) -> None:
        arguments[name][number][key] = change(arguments[name][number][key])

    return put


def _set(name: str, change: Callable[[Any], Any]) -> Callable[[Arguments], None]:
    def put(arguments: Arguments) -> None:
        arguments[name] = change(arguments[name])

    return put


BROKEN: dict[str, tuple[Callable[[Arguments], None], str]] = {
    "columns of steps": (_set("steps", lambda steps: steps[:, :5].copy()), "steps must have 6 columns"),
    "dimensions of steps": (_set("steps", lambda steps: steps.ravel()), "steps must have 6 columns"),
    "columns of variables": (_set("variables", lambda all_: all_[:, :6].copy()), "variables must have 7 columns"),
    "rows of variables": (_set("variables", lambda all_: all_[:4]), "variables must have D rows"),
    "features": (_set("features", lambda count: count + 1), "variables must have D rows"),
    "slots": (_set("num_slots", lambda count: count - 1), "follow one another"),
    "negative slots": (_set("num_slots", lambda _: -1), "num_slots"),
    "slots that nobody writes": (_set("num_slots", lambda count: 2**31 - 2), "follow one another|what is written"),
    "context slot": (_set("context_slot", lambda _: 10_000), "context_units must lie in slots"),
    "context units": (_set("context_units", lambda units: units + 1), "features of the context"),
    "number": (_put("variables", "NUMBER", 5), "numbers below D"),
    "noise step": (_put("variables", "NOISE_STEP", -1), "noise steps below D"),
    "parameters": (_put("variables", "PARAM_SLOT", 1_000), "parameters must lie in slots"),
    "input units": (_put("variables", "X_SLOT", 1_000), "looked up"),
    "conditional": (_put("variables", "CONDITIONAL", 4), "one of the conditionals"),
    "flags": (_put("variables", "SUPPORT", -1), "flags"),
    "flags beyond all": (_put("variables", "SUPPORT", 2**63 - 1, row=1), "flags of a variable"),
    "more than 32 bits": (_put("variables", "PARAM_SLOT", 2**32), "fit into 32 bits"),
    "units of more than 32 bits": (_set("context_units", lambda units: units + 2**32), "fit into 32 bits"),
    "values of a real number": (_part("conditionals", "size", lambda _: 2), "count values"),
    "values of categories": (_part("conditionals", "size", lambda _: 0, 1), "count values"),
    "encoding of a real number": (_part("conditionals", "encoding", lambda _: 1), "read as numbers"),
    "drawn over parameters": (_set("in_place", lambda _: True), "drawn over their parameters must have one each"),
    "table": (_put("variables", "TABLE", 1, row=2), "embeddings must lie in tables"),
    "tables": (_set("tables", lambda tables: tables[1:].copy()), "embeddings must lie in tables"),
    "slots of a sum": (_put_step(Kind.AFFINE, StepColumn.FIRST, 1_000), "finish slots"),
    "rows of a sum": (_put_step(Kind.AFFINE, StepColumn.FIRST, 0), "finish rows of affines"),
    "count of a sum": (_put_step(Kind.AFFINE, StepColumn.COUNT, 100), "steps must finish"),
    "number of a sum": (_put_step(Kind.AFFINE, StepColumn.LEFT, 3), "one of the affines"),
    "variable of a draw": (_put_step(Kind.DRAW, StepColumn.COUNT, 6), "draw variables"),
    "parameters of a conditional": (_part("conditionals", "num_params", lambda _: 1), "all of their parameters"),
    "uniforms of a conditional": (_part("conditionals", "num_draws", lambda _: 0), "all of their uniforms"),
    "units of a conditional": (_part("conditionals", "units", lambda _: 1, 1), "input units"),
    "width of weights": (
        _part("affines", "weights", lambda terms: [terms[0][:, 1:], *terms[1:]]),
        "columns of affines must",
    ),
    "height of weights": (
        _part("affines", "weights", lambda terms: [terms[0][1:], *terms[1:]]),
        "weights of all terms must have n rows",
    ),
    "height of all weights": (
        _part("affines", "weights", lambda terms: [each[1:] for each in terms]),
        r"bias must have shape",
    ),
    "dimensions of weights": (
        _part("affines", "weights", lambda terms: [each.ravel() for each in terms]),
        r"weights must have shape",
    ),
    "bias": (_part("affines", "bias", lambda bias: bias[1:].copy()), r"bias must have shape \(n,\)"),
    "a row of weights": (
        _part("affines", "rows", lambda rows: rows + 1),
        "rows of affines must be those of their weights",
    ),
    "a row before weights": (_part("affines", "rows", lambda rows: rows - 1), "rows of affines must be those of their"),
    "a column of weights": (
        _part("affines", "columns", lambda columns: columns + 1),
        "columns of affines must be those",
    ),
    "rows": (_part("affines", "rows", lambda rows: rows[1:].copy()), "needed and ready must have shape"),
    "columns": (_part("affines", "columns", lambda columns: columns[1:].copy()), r"slots must have shape \(m,\)"),
    "column slots": (_part("affines", "slots", lambda slots: slots[1:].copy()), r"slots must have shape \(m,\)"),
    "a column slot": (_part("affines", "slots", lambda slots: slots + 1_000), "columns of affines must be slots"),
    "needed": (_part("affines", "needed", lambda needed: needed[1:].copy()), "needed and ready"),
    "too much is needed": (_part("affines", "needed", lambda needed: needed + 1_000), "need leading columns"),
    "too much is ready": (_part("affines", "ready", lambda ready: ready + 1_000), "need leading columns"),
    "mask": (_part("affines", "mask", lambda _: np.ones((2, 2), dtype=np.bool_)), r"mask must have shape \(n, m\)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_program_that_does_not_fit_is_refused(name: str) -> None:
    arguments = _arguments()
    _pack(arguments)
    change, message = BROKEN[name]
    change(arguments)
    with pytest.raises(ValueError, match=message):
        _pack(arguments)


def test_variables_that_are_drawn_over_their_parameters_follow_one_another() -> None:
    program = MADE(5, (9,)).program()
    arguments = layout.layout(program, build_schedule(program))
    _pack(arguments)
    for wrong in (arguments["x_slot"] - 1, 10**6):
        with pytest.raises(ValueError, match="must follow one another"):
            _pack({**arguments, "x_slot": wrong})


def test_arrays_in_another_order_are_converted_and_kept() -> None:
    """What is packed is the array in C order, made for the call."""
    plain, wide = _arguments(), _arguments()
    for entry in wide["affines"]:
        entry["weights"] = [np.asfortranarray(each) for each in entry["weights"]]
        entry["bias"] = np.asfortranarray(entry["bias"])
    assert _pack(plain).panel_macs == _pack(wide).panel_macs


DRAWS = {
    "rows": ({"num_rows": -1}, "rows must be counted"),
    "rows of a context": ({"rows_per_context": 0}, "contexts from 1"),
    "endless rows of a context": ({"rows_per_context": 2**63 - 1}, "contexts from 1"),
    "endless offset": ({"row_offset": 2**63 - 1}, "rows must be counted"),
    "rows at once": ({"rows_at_once": -1}, "rows_at_once must be a count"),
    "context": ({"context": 0}, "context must be there"),
    "instruction set": ({"isa": "abacus"}, "no instruction set 'abacus'"),
}


def _draw_of(out: torch.Tensor, context: torch.Tensor) -> Arguments:
    return {
        "isa": cpp.instruction_set(),
        "num_rows": 2,
        "first_row": 0,
        "rows": 0,
        "seed": 0,
        "context": context.data_ptr(),
        "row_offset": 0,
        "rows_per_context": 1,
        "out": out.data_ptr(),
        "log_prob": 0,
        "log_weight": 0,
        "conditions": core.Conditions(),
        "decoding": core.Decoding(),
        "num_threads": 1,
        "rows_at_once": 0,
    }


def test_a_condition_of_endless_rows_is_drawn_at_once() -> None:
    """The tiles are those of the rows that are there."""
    out, given = torch.zeros(2, 5), torch.zeros(5)
    observed = torch.zeros(5, dtype=torch.uint8)
    conditions = core.Conditions(given=given.data_ptr(), observed=observed.data_ptr())
    sampler, arguments = _pack(_arguments()), _draw_of(out, torch.zeros(1, 2))
    for rows in (2, 2**62):
        endless = {"rows_per_context": rows, "conditions": conditions}
        assert sampler.draw(**{**arguments, **endless}) == cpp.Status.OK


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_that_does_not_fit_is_refused(name: str) -> None:
    out, context = torch.zeros(2, 5), torch.zeros(2, 2)
    arguments, sampler = _draw_of(out, context), _pack(_arguments())
    assert sampler.draw(**arguments) == cpp.Status.OK
    change, message = DRAWS[name]
    with pytest.raises(ValueError, match=message):
        sampler.draw(**{**arguments, **change})


def test_flags_that_end_before_those_of_all_variables_are_refused() -> None:
    out, flags = torch.zeros(2, 5), torch.ones(100, dtype=torch.uint8)
    where = dict.fromkeys(("support", "constrained"), flags.data_ptr())
    sampler, arguments = _pack(_arguments()), _draw_of(out, torch.zeros(2, 2))
    whole = core.Conditions(**where, bounds=out.data_ptr(), support_size=16)
    assert sampler.draw(**{**arguments, "conditions": whole, "num_rows": 1}) == cpp.Status.OK
    for wrong in (
        core.Conditions(**where, bounds=out.data_ptr(), support_size=15),
        core.Conditions(**where, bounds=out.data_ptr(), support_size=-1),
        core.Conditions(**where, support_size=16),
    ):
        with pytest.raises(ValueError, match="what is constrained must have the flags and bounds"):
            sampler.draw(**{**arguments, "conditions": wrong, "num_rows": 1})


def test_products_of_less_than_no_rows_are_refused() -> None:
    side, x = core.MaskSide(**_sides()[0]), torch.zeros(1)
    at = x.data_ptr()
    with pytest.raises(ValueError, match="batch must count rows"):
        core.masked_matmul_f32(cpp.instruction_set(), side, -1, at, at, 1, 1, 0, 0, at, 1)
    with pytest.raises(ValueError, match="batch must count rows"):
        core.masked_outer_f32(cpp.instruction_set(), side, -1, at, at, at, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (0.0, -1.0, float("nan"), float("inf"))),
        *(("top_p", value) for value in (0.0, -1.0, 1.5, float("nan"))),
        ("top_k", -1),
    ],
)
def test_decoding_that_does_not_fit_is_refused(name: str, value: float) -> None:
    core.Decoding(**{name: 1})
    with pytest.raises(ValueError, match=name):
        core.Decoding(**{name: value})


def test_conditions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="what is observed must be given"):
        core.Conditions(observed=8)
    with pytest.raises(ValueError, match="what is constrained must have support or bounds"):
        core.Conditions(constrained=8)
    sums = {"sum_pattern": 8, "sum_lacking": 8, "sum_reaches": 8, "sum_bits": 8}
    core.Conditions(constrained=8, support=8, **sums, num_sums=MOST_SUMS)
    for count in (-1, MOST_SUMS + 1, 2**62):
        with pytest.raises(ValueError, match="num_sums must be a count of sums, 8 at most"):
            core.Conditions(constrained=8, support=8, **sums, num_sums=count)
    for missing in sums:
        with pytest.raises(ValueError, match="must be constrained, and have all that sums are made of"):
            core.Conditions(constrained=8, support=8, **{**sums, missing: 0}, num_sums=1)
    with pytest.raises(ValueError, match="must be constrained, and have all that sums are made of"):
        core.Conditions(**sums, num_sums=1)


SIDES: dict[str, tuple[Callable[[Arguments], None], str]] = {
    "columns of groups": (_set("groups", lambda groups: groups[:, :9].copy()), "groups must have 10 columns"),
    "number of groups": (_set("groups", lambda groups: groups[:-1]), "groups must have 16 rows"),
    "rows": (_set("rows", lambda rows: rows + 1), "rows must be numbers of rows"),
    "columns": (_set("columns", lambda columns: columns - 1), "columns must be numbers of columns"),
    "positions": (_set("positions", lambda positions: positions + 1), "positions must be places of columns"),
    "fewer positions": (_set("positions", lambda positions: positions[:-1]), "lists of groups must lie in positions"),
    "bits": (_set("bits", lambda bits: bits[:-1]), "words of groups must lie in bits"),
    "bits of rows beyond": (_set("bits", lambda bits: bits | np.uint16(1 << 15)), "name their rows alone"),
    "rows of more than 32 bits": (_set("rows", lambda rows: rows + 2**32), "fit into 32 bits"),
    "longest first": (_set("longest_first", lambda longest: longest + 1), "longest_first must list the groups"),
}
GROUPS = {
    GroupColumn.POSITIONS: "positions",
    GroupColumn.BITS: "bits",
    GroupColumn.SIZE: "positions",
    GroupColumn.PARTIAL_TO: "partial columns",
    GroupColumn.FIRST_TO: "panels of groups",
    GroupColumn.SECOND_TO: "panels of groups",
    GroupColumn.NUM_ROWS: "groups must have 16 rows",
}


def _sides() -> list[Arguments]:
    """The arguments of a nested mask's side and of another's."""
    generator = np.random.default_rng(0)
    names = ("rows", "columns", "groups", "longest_first", "positions", "bits", "contiguous")
    degrees = generator.integers(0, 20, 50), generator.integers(0, 20, 30)
    plans = plan_from_degrees(*degrees), plan_from_mask(generator.random((50, 30)) < 0.3)
    return [{name: getattr(plan.forward, name) for name in names} for plan in plans]


@pytest.mark.parametrize("name", SIDES)
def test_a_side_that_does_not_fit_is_refused(name: str) -> None:
    for side in _sides():
        core.MaskSide(**side)
        change, message = SIDES[name]
        change(side)
        with pytest.raises(ValueError, match=message):
            core.MaskSide(**side)


@pytest.mark.parametrize("column", GROUPS, ids=lambda column: column.name)
def test_a_group_that_does_not_fit_is_refused(column: GroupColumn) -> None:
    for side in _sides():
        side["groups"] = side["groups"].copy()
        side["groups"][1, column] += 10_000
        with pytest.raises(ValueError, match=GROUPS[column]):
            core.MaskSide(**side)
