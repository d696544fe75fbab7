"""The Triton sampler's plan, and what only this backend can be asked for. Kernels need Triton's interpreter or a GPU."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from drawing import draw_piece
from quick import some
from torch import Tensor

from made_fast import MADE, backends
from made_fast.programs.program import Add, Affine, Elementwise, Multiply, Program, Term, X
from made_fast.programs.schedule import build_schedule
from made_fast.testing import unexplained_differences

triton = pytest.importorskip("triton", reason="triton is not installed")

from made_fast.backends import reference  # noqa: E402
from made_fast.backends.triton import launch  # noqa: E402
from made_fast.backends.triton.drawing import launches as sampling  # noqa: E402
from made_fast.backends.triton.drawing.plan import DrawPlan, Event, Head, build_plan  # noqa: E402
from made_fast.backends.triton.drawing.sizes import LAYOUT, SAMPLER, Layout, choose_tile  # noqa: E402
from made_fast.backends.triton.launch import Config  # noqa: E402

pytestmark = pytest.mark.triton
ROW = next(row for row in backends.BACKENDS if row.name == "triton")
DEVICE = ROW.devices[0]
LACKS = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(),
    reason="needs a GPU, or TRITON_INTERPRET=1 in the environment (make test does that)",
)


def runs(test: Any) -> Any:
    """A test that runs kernels."""
    return pytest.mark.interpreter(LACKS(test))


SMALL = Layout(16, 16, 16, 2)
TILE = Config.of(4, 3, R=16)
Build = Callable[..., MADE]


def _heads(plan: DrawPlan) -> Iterator[Head]:
    """The events, from the words that kernels read."""
    for what, run, step in plan.events[:-2].tolist():
        yield Head(what & 15, what >> 12, what >> 4 & 15, run & 0xFFFF, run >> 16, what >> 8 & 15, step)


def _weights_by_slot(plan: DrawPlan, num_slots: int) -> np.ndarray:
    """(slots, slots): by how much each slot enters the sum of each other, wherever the plan keeps it."""
    size, tasks, own_chunks = plan.weights.shape[2], (plan.task_chunks, plan.task_weights), (plan.chunks, plan.weights)
    total = np.zeros((num_slots + size, num_slots + size))
    events = list(_heads(plan))

    def add(targets: np.ndarray, chunks: range, starts: np.ndarray, weights: np.ndarray) -> None:
        for chunk in chunks:
            at = int(starts[chunk])
            for unit, slot in enumerate(targets):
                if slot >= 0:
                    total[slot, at : at + size] += weights[chunk, unit]

    for begin, end in pairwise(plan.outer.tolist()):
        slots = plan.slots[begin:end].reshape(-1)
        for task in range(*plan.blocks[begin, :2]):
            columns = plan.columns[task]
            add(np.where(columns >= 0, slots[columns], -1), range(*plan.tasks[task]), *tasks)
        for block in range(begin, end):
            own = plan.slots[block]
            add(own, range(*plan.blocks[block, 2:4]), *own_chunks)
            for event in range(*plan.blocks[block, 4:6]):
                kind, unit, *_ = events[event]
                for other, slot in enumerate(own):
                    if slot >= 0 and kind != Event.NOTHING:
                        total[own[unit], slot] += plan.vectors[event, 0, other] * (other != unit)
                    if slot >= 0 and kind == Event.DRAW:
                        total[slot, own[unit]] += plan.vectors[event, 1, other]
    return total[:num_slots, :num_slots]


@pytest.mark.parametrize("layout", [LAYOUT, SMALL, Layout(16, 32, 64, 3), Layout(64, 16, 32, 1)], ids=str)
def test_every_weight_is_in_the_plan_once(build: Build, options: dict[str, Any], layout: Layout) -> None:
    program = build(options, torch.float32, features=9).program()
    schedule = build_schedule(program)
    plan = build_plan(program, schedule, **layout._asdict())
    expected = np.zeros((schedule.num_slots,) * 2)
    for op, affine in zip(program.affines, schedule.affines, strict=True):
        weight = torch.cat([term.weight for term in op.terms], dim=1).numpy()[np.ix_(affine.rows, affine.columns)]
        rows = affine.first_slot + np.arange(len(affine.rows))
        np.add.at(expected, (rows[:, None], affine.column_slots[None]), weight)
    for kind, first, count, left, right, _ in schedule.steps.tolist():
        own = np.arange(count)
        if kind in (1, 2):
            expected[first + own, left + own] += 1
        if kind == 2:
            expected[first + own, right + own] += 1
    assert np.array_equal(_weights_by_slot(plan, schedule.num_slots), expected.astype(np.float32))
    assert sorted(head.step for head in _heads(plan) if head.kind == Event.DRAW) == list(range(9))


def test_units_of_a_layer_that_waits_for_variables_alone_take_no_event_of_their_own(build: Build) -> None:
    """What makes a level cheap: layer 1 at the begin of the next event, all at once; then layer 2 unit by unit."""
    program = build({"hidden_features": (64, 64)}, torch.float32, features=9).program()
    plan = build_plan(program, build_schedule(program), **Layout(64, 32, 64, 4)._asdict())
    heads = list(_heads(plan))
    kinds = [head.kind for head in heads]
    assert plan.num_events == len(kinds)
    assert kinds.count(Event.DRAW) == 9
    assert kinds.count(Event.UNIT) <= 64
    assert kinds.count(Event.NOTHING) <= len(plan.blocks)
    activated = sum(head.stop - head.first for head in heads)
    assert activated >= 64  # all of layer 1, and what of layer 2 needs nothing of its own block
    assert len(heads) < activated + 9


def _packed(program: Program, layout: Layout) -> sampling.Packed:
    return sampling.pack(program, build_schedule(program), layout=layout)


def _drawn(packed: sampling.Packed, count: int, **arguments: Any) -> tuple[Tensor, Tensor]:
    out = torch.full((count, packed.schedule.features), torch.nan, device=DEVICE)
    log_prob = torch.full((count,), torch.nan, device=DEVICE)
    draw_piece(sampling, packed, out, log_prob, **{"seed": 5, "first_row": 0, "config": TILE, **arguments})
    return out.cpu(), log_prob.cpu()


@runs
@pytest.mark.parametrize("mode", ["one", "many"])
@pytest.mark.parametrize(
    "name",
    some(
        ["deep", "direct_deep", "residual_direct_context", "random_degrees_residual", "gelu"],
        {"residual_direct_context"},
    ),
)
def test_small_blocks_draw_the_same(
    build: Build, make_context: Any, every_option: dict[str, Any], name: str, mode: str
) -> None:
    """Blocks so small that every way a weight can be kept occurs: before the outer block, before the block, within it."""
    model = build(every_option[name], torch.float32)
    context = make_context(model, 1)
    shared = {} if context is None else {"context": context.to(DEVICE), "rows_per_condition": 40}
    packed = _packed(model.to(DEVICE).program(), SMALL)
    assert len(packed.plan.outer) > 2
    x, log_prob = _drawn(packed, 37, mode=mode, programs=2, **shared)
    model = model.cpu()
    rows = None if context is None else context.expand(37, -1)
    assert not unexplained_differences(model, x if context is None else x[None], seed=5, context=context).any()
    torch.testing.assert_close(log_prob, model.log_prob(x, rows).detach(), rtol=1e-5, atol=1e-4)


def _gated() -> Program:
    """Products, a function of a product, and sums whose inputs lie far apart, beside what a MADE has."""
    generator = torch.Generator().manual_seed(1)
    features, width = 9, 24
    degrees = torch.arange(width) * features // width  # 0 .. D-1

    def term(source: int, rows: Tensor, columns: Tensor) -> Term:
        mask = rows[:, None] >= columns[None]
        return Term(source, torch.randn(mask.shape, generator=generator) * mask / 2, mask)

    steps = torch.arange(features)
    first = Affine((term(X, degrees, steps + 1),), torch.randn(width, generator=generator))  # value 2
    gate = Affine((term(X, degrees.flip(0), steps + 1),), torch.randn(width, generator=generator))  # 4, others first
    ops = (
        first,
        Elementwise(2, "tanh"),  # 3
        gate,  # 4
        Elementwise(4, "sigmoid"),  # 5
        Multiply(3, 5),  # 6: each waits for the later of its two
        Elementwise(6, "silu"),  # 7
        Add(7, 2),  # 8
        Affine((term(8, steps, torch.maximum(degrees, degrees.flip(0))), term(X, steps, steps + 1)), None),
    )
    return Program(features, 0, ops, steps, (1,) * features)


@runs
@pytest.mark.parametrize("mode", some(["one", "many"], {"many"}))
@pytest.mark.parametrize("layout", some([SMALL, LAYOUT, Layout(16, 16, 32, 1)], [SMALL]))
def test_products_and_sums_of_units_of_any_age(layout: Layout, mode: str) -> None:
    program = _gated()
    schedule = build_schedule(program)
    expected, nats = torch.empty(40, 9), torch.empty(40)
    draw_piece(reference, reference.pack(program, schedule), expected, nats, seed=5, first_row=0)
    moved = program._mapped(lambda weight: weight.to(DEVICE), lambda bias: bias.to(DEVICE))
    x, log_prob = _drawn(_packed(moved, layout), 40, mode=mode)
    assert torch.equal(x, expected)  # no uniform of this seed lies next to its threshold
    torch.testing.assert_close(log_prob, nats, rtol=1e-5, atol=1e-5)


@runs
@pytest.mark.parametrize("mode", some(["one", "many"], {"one"}))
def test_scratch_is_never_read_before_it_is_written(
    build: Build, every_option: dict[str, Any], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    packed = _packed(build(every_option["residual"], torch.float32).to(DEVICE).program(), SMALL)
    expected = _drawn(packed, 20, mode=mode)
    plain = torch.empty

    def poisoned(*size: Any, **options: Any) -> Tensor:
        made = plain(*size, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made.fill_(-(2**31) + 1)

    monkeypatch.setattr(torch, "empty", poisoned)
    found = _drawn(packed, 20, mode=mode)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@runs
@pytest.mark.parametrize("seed", some([0, 2**31, 2**63 - 1, 2**63, 2**64 - 3], {2**63}))
def test_all_64_bits_of_seed_and_row_count(build: Build, every_option: dict[str, Any], seed: int) -> None:
    model = build(every_option["biases"], torch.float32)
    for first_row in (0, 2**32 - 3, 2**61):
        x, _ = _drawn(_packed(model.to(DEVICE).program(), SMALL), 8, seed=seed, first_row=first_row)
        assert not unexplained_differences(model.cpu(), x, seed=seed, first_row=first_row).any()


def _recorded(packed: sampling.Packed, rows: int, **arguments: Any) -> list[launch.Launch]:
    with launch.recorded() as found:
        draw_piece(
            sampling, packed, torch.empty(rows, packed.schedule.features), None, seed=1, first_row=0, **arguments
        )
    return found


def _bytes(launches: list[launch.Launch]) -> int:
    scratch = ("tables", "all_sums", "all_limits", "all_nats", "all_touched", "flags")
    return sum(launches[0].arguments[name].nbytes for name in scratch)


def test_one_launch_draws_everything_and_its_scratch_does_not_grow(build: Build, every_option: dict[str, Any]) -> None:
    packed = _packed(build(every_option["deep"], torch.float32).program(), SMALL)
    for mode, per_outer in (("one", 0), ("many", 2)):
        launches = [_recorded(packed, rows, mode=mode, config=TILE, programs=4) for rows in (64, 640)]
        parts = 1 if mode == "one" else 10
        expected = 1 + per_outer * (len(packed.plan.outer) - 1)
        assert [len(each) for each in launches] == [expected, parts * expected]
        assert _bytes(launches[0]) == _bytes(launches[1])
        assert launches[0][0].grid == (4,)


def test_small_batches_get_small_tiles() -> None:
    for precision, tiles in SAMPLER.items():
        assert choose_tile(100, 132, precision) == tiles[0]
        assert choose_tile(100_000, 132, precision) == tiles[-1]
        sizes = [choose_tile(rows, 132, precision).config["R"] for rows in range(1, 20_000, 500)]
        assert sizes == sorted(sizes)


@runs
def test_a_lower_precision_is_taken_where_torch_is_told_so(build: Build, every_option: dict[str, Any]) -> None:
    packed = _packed(build(every_option["deep"], torch.float32).program(), SMALL)
    found = {}
    for wanted in ("highest", "high", "medium"):
        torch.set_float32_matmul_precision(wanted)
        try:
            found[wanted] = {each.arguments["PRECISION"] for each in _recorded(packed, 3, mode="many")}
        finally:
            torch.set_float32_matmul_precision("highest")
    assert found.pop("highest").issuperset({"ieee"})
    assert all("tf32" in names for names in found.values())


@runs
def test_a_backend_that_is_named_but_cannot_serve_says_why(build: Build, every_option: dict[str, Any]) -> None:
    model = build(every_option["natural"], torch.float64).to(DEVICE)
    with pytest.raises(ValueError, match=r"backend 'triton' cannot be used: needs torch.float32"):
        model.sample(3, backend="triton")
