"""Sampler and MADE.sample: never stale, packed once, reproducible, and clear about what they refuse."""

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from quick import some
from torch import Tensor

import made_fast.sampling.sampler
from made_fast import MADE, Sampler, backends
from made_fast.testing import naive_sample

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]
USABLE = [
    backend.name
    for backend in backends.BACKENDS
    if backends.why_not(backend, backends.Needs(torch.device("cpu"), torch.float64)) is None
]
COMPILED = [name for name in USABLE if name != "reference"]
PLAIN = {"hidden_features": (24,), "order": "random", "direct": True}


def _in_place(model: MADE) -> None:
    with torch.no_grad():
        model.parameters_layer.weight.mul_(-1)


def test_sampling_twice_packs_once(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model, packed = build(PLAIN), []
    for row in backends.BACKENDS:
        if row.missing is None:
            module = backends.load(row)
            for name in ("pack", "repack") if hasattr(module, "repack") else ("pack",):
                pack = getattr(module, name)
                monkeypatch.setattr(module, name, lambda *a, pack=pack, name=row.name: packed.append(name) or pack(*a))
    sampler = model.sampler()
    for _ in range(3):
        model.sample(4)
        model.sample_and_log_prob(2, seed=1)
        model.eval()
        assert model.sampler() is sampler
    assert packed == [USABLE[0]]
    _in_place(model)
    assert model.sampler() is not sampler
    model.sample(4)
    assert packed == [USABLE[0]] * 2


def test_a_sampler_knows_its_model(build: Build) -> None:
    model = build(PLAIN, torch.float32)
    sampler = model.sampler()
    assert isinstance(sampler, Sampler)
    assert torch.equal(sampler.order, model.order)
    assert sampler.features == 9
    assert sampler.num_steps == 9
    assert torch.equal(sampler.levels, model.order.argsort())
    assert sampler.dense_macs == 9 * 24 + 24 * 9 + 9 * 9
    assert sampler.macs == sum(
        int(layer.mask.sum()) for layer in (model.hidden[0], model.parameters_layer, model.direct_layer)
    )


def test_evaluation_and_training_mode_draw_alike(build: Build) -> None:
    model = build(PLAIN)
    model.train()
    drawn = model.sample(30, seed=2)
    model.eval()
    assert torch.equal(model.sample(30, seed=2), drawn)
    with torch.inference_mode():
        assert torch.equal(model.sample(30, seed=2), drawn)
    assert not model.sample(3).requires_grad
    assert not model.sample_and_log_prob(3)[1].requires_grad


def test_models_made_in_inference_mode_can_be_sampled() -> None:
    with torch.inference_mode():
        model = MADE(9, **PLAIN)
        drawn = model.sample(30, seed=2)
        assert torch.equal(model.sample(30, seed=2), drawn)
    assert torch.equal(model.sample(30, seed=2), drawn)
    assert torch.equal(naive_sample(model, 30, seed=2), drawn)


def test_seeds_and_generators(build: Build) -> None:
    sampler = build(PLAIN).sampler()
    torch.manual_seed(4)
    first, second = sampler.sample(60), sampler.sample(60)
    assert not torch.equal(first, second)
    torch.manual_seed(4)
    assert torch.equal(sampler.sample(60), first)
    assert torch.equal(sampler.sample(60), second)

    def drawn(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [sampler.sample(60, generator=generator), sampler.sample(60, generator=generator)]

    before = torch.random.get_rng_state()
    assert torch.equal(torch.stack(drawn(1)), torch.stack(drawn(1)))
    assert not torch.equal(drawn(1)[0], drawn(2)[0])
    assert not torch.equal(*drawn(1))
    sampler.sample(5, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)  # seed and generator leave torch's own alone
    assert torch.equal(sampler.sample(60, seed=3), sampler.sample(60, seed=3))
    assert not torch.equal(sampler.sample(60, seed=2**64 - 1), sampler.sample(60, seed=2**63 - 1))
    assert not torch.equal(sampler.sample(60, seed=3), sampler.sample(60, seed=2**32 + 3))


@pytest.mark.parametrize("backend", USABLE)
def test_autocast_does_not_change_samples(build: Build, backend: str) -> None:
    """Samples depend on the seed and the row number alone."""
    sampler = build({"hidden_features": (64, 64)}, torch.float32).sampler()
    x, log_prob = sampler.sample_and_log_prob(2000, seed=1, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = sampler.sample_and_log_prob(2000, seed=1, backend=backend)
    assert torch.equal(again[0], x)
    assert torch.equal(again[1], log_prob)


@pytest.mark.parametrize("backend", USABLE)
def test_contexts_of_other_dtypes_and_strides(build: Build, every_option: dict[str, Any], backend: str) -> None:
    model = build(every_option["residual_direct_context"], torch.float32)
    context = torch.randn(3, 4).round(decimals=1).T.double()  # (4, 3), not contiguous
    expected = model.sample(9, context.float().contiguous(), seed=1, backend=backend)
    assert torch.equal(model.sample(9, context, seed=1, backend=backend), expected)
    grown = context.float().contiguous().requires_grad_()
    assert torch.equal(model.sample(9, grown, seed=1, backend=backend), expected)
    assert torch.equal(model.sample(9, context.float().expand(4, 3), seed=1, backend=backend), expected)
    same = context[:1].float().expand(4, 3)  # stride 0
    repeated = model.sample(9, same.contiguous(), seed=1, backend=backend)
    assert torch.equal(model.sample(9, same, seed=1, backend=backend), repeated)


def test_a_long_job_is_cut_into_pieces(
    build: Build, make_context: Context, every_option: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    model = build(every_option["residual_direct_context"], torch.float32)
    context = make_context(model, 7)
    x, log_prob = model.sample_and_log_prob(45, context, seed=1, first_row=9)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(made_fast.sampling.sampler, "_MACS_PER_PIECE", {"cpu": 1})
    for options in ({}, {"dtype": torch.uint8}, {"progress": True}):
        again = model.sample_and_log_prob(45, context, seed=1, first_row=9, **options)
        assert torch.equal(again[0].float(), x)
        assert torch.equal(again[1], log_prob)
    assert "row" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(1, ()), (8, (16,)), (16, (64,)), (64, ())])
def test_small_models_are_drawn_in_pieces_too(shape: tuple[int, tuple[int, ...]]) -> None:
    """About a second each at the most on one core, whatever the backend, so that Ctrl-C and the bar need not wait."""
    sampler = MADE(*shape).sampler()
    for name, nanoseconds in (("cpp", 12), ("numba", 350), ("reference", 400)):  # for a variable, at least
        times_slower = getattr(backends.load(_row(name)), "TIMES_SLOWER", 1)
        bounds = list(sampler._bounds(10**9, False, times_slower))
        assert bounds[0][0] == 0
        assert bounds[-1][1] == 10**9
        assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
        assert bounds[0][1] * shape[0] * nanoseconds < 2.5e9, name


def _row(name: str) -> backends.Backend:
    return next(row for row in backends.BACKENDS if row.name == name)


def test_rows_may_be_named(
    build: Build, make_context: Context, every_option: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, rows = build(PLAIN, torch.float32).sampler(), torch.tensor([7, 3, 200, 3, 0])
    x, log_prob = sampler.sample_and_log_prob(201, seed=1)
    monkeypatch.setattr(made_fast.sampling.sampler, "_MACS_PER_PIECE", {"cpu": 1})  # 64 rows at a time
    many = torch.randperm(201)
    for picked in (rows, many, many.repeat_interleave(2)[::2], rows[:0]):  # the third is not contiguous
        found = sampler.sample_and_log_prob(len(picked), seed=1, rows=picked)
        assert torch.equal(found[0], x[picked])
        assert torch.equal(found[1], log_prob[picked])
    assert torch.equal(sampler.sample(5, seed=1, rows=rows, dtype=torch.uint8), x[rows].byte())
    model = build(every_option["context"], torch.float32)
    context = make_context(model, 50)
    expected = model.sample(3, context, seed=1, first_row=20)
    found = model.sample(3, context, seed=1, rows=torch.arange(20, 170))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 3}, r"rows must be whole numbers of shape \(3,\), .*, got torch\.int64 \(2,\)"),
        ({"rows": [1.0, 2.0]}, r"rows must be whole numbers of shape \(2,\), .*, got \[1\.0, 2\.0\]"),
        ({"rows": range(10**12)}, r"rows must be whole numbers of shape \(2,\), .*, got range\(0, 1000000000000\)"),
        ({"rows": torch.tensor([1.0, 2.0])}, r"rows must be whole numbers .*, got torch\.float32 \(2,\)"),
        ({"rows": torch.tensor([3, -1])}, r"rows must lie in 0 \.\. 2\*\*62 - 1, got -1"),
        ({"rows": torch.tensor([2**62, 0])}, r"rows must lie in 0 \.\. 2\*\*62 - 1, got 4611686018427387904"),
        ({"first_row": 5}, r"first_row must be 0 where rows are given, got 5"),
    ],
)
def test_bad_rows_are_named(build: Build, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}\Z"):
        build(PLAIN).sample(**{"num_samples": 2, "rows": torch.tensor([5, 6]), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": -1}, r"num_samples must be .*, got -1"),
        ({"num_samples": 2.5}, r"num_samples must be .*, got 2\.5"),
        ({"num_samples": None}, r"num_samples must be .*, got None"),
        ({"num_samples": True}, r"num_samples must be .*, got True"),
        ({"first_row": -1}, r"first_row must be .*, got -1"),
        ({"first_row": 0.5}, r"first_row must be .*, got 0\.5"),
        ({"first_row": 2**64}, r"first_row must be .*, got \d+"),
        ({"seed": 1.5}, r"seed must be .*, got 1\.5"),
        ({"seed": -1}, r"seed must be an integer, 0 to 18446744073709551615 \(64 bits\), got -1"),
        ({"seed": 2**64}, r"seed must be .*, got 18446744073709551616"),
        ({"seed": True}, r"seed must be .*, got True"),
        ({"num_samples": 2**63}, r"num_samples must be .*, got \d+"),
        ({"dtype": "float32"}, r"dtype must be a torch\.dtype, got 'float32'"),
        ({"generator": 3}, r"generator must be a torch\.Generator, got 3"),
        ({"backend": "abacus"}, r"backend must be .*, got 'abacus'"),
        ({"backend": ""}, r"backend must be .*, got ''"),
        ({"context": torch.zeros(2, 3)}, r"context must be None .*\(2, 3\)"),
    ],
)
def test_bad_requests_are_named(build: Build, arguments: dict[str, Any], message: str) -> None:
    model = build(PLAIN)
    for call in (model.sample, model.sample_and_log_prob, model.sampler().sample):
        with pytest.raises(ValueError, match=rf"^{message}\Z"):
            call(**{"num_samples": 3, **arguments})


@pytest.mark.parametrize("context", [None, torch.zeros(3), torch.zeros(2, 4), torch.zeros(1, 2, 3)])
def test_bad_contexts_are_named(build: Build, every_option: dict[str, Any], context: Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"^context must have shape \(B, 3\), got .*\Z"):
        build(every_option["context"]).sample(2, context)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(build: Build, every_option: dict[str, Any], bad: float) -> None:
    with pytest.raises(ValueError, match=r"^context must be finite.*\Z"):
        build(every_option["context"]).sample(2, torch.tensor([[0.0, bad, 0.0]]))
    model = build(PLAIN)
    with torch.no_grad():
        model.parameters_layer.bias[2] = bad
    with pytest.raises(ValueError, match=r"^weights must be finite.*\Z"):
        model.sample(2)


def test_a_sampler_refuses_a_backend_that_cannot_serve(build: Build) -> None:
    model = build(PLAIN)
    with pytest.raises(ValueError, match=r"^backend must be .*, got 'abacus'\Z"):
        Sampler(model.program(), model.output, backend="abacus")
    chosen = Sampler(model.program(), model.output, backend="reference")
    assert torch.equal(chosen.sample(20, seed=1), naive_sample(model, 20, seed=1))
    assert torch.equal(chosen.sample(20, seed=1, backend=USABLE[0]), naive_sample(model, 20, seed=1))


def test_the_interpreter_runs_while_the_compiled_engine_draws() -> None:
    """Another Python thread makes progress during one long call."""
    sampler = MADE(200, (400,)).sampler()
    counted, done = 0, threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.wait(0.002):
            counted += 1

    sampler.sample(1)
    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(count)
        before = counted
        sampler.sample(40_000)
        during = counted - before
        done.set()
        counting.result()
    assert during >= 3


@pytest.mark.parametrize("backend", some(COMPILED, {"cpp"}))
def test_compiled_engines_use_the_threads_that_torch_was_given(
    set_threads: Callable[[int], None], backend: str
) -> None:
    """Processor time outside the calling thread, whatever else the machine is doing."""
    sampler = MADE(200, (400,)).sampler()
    sampler.sample(100, backend=backend)
    set_threads(2)
    mine, all_of_it = time.thread_time(), time.process_time()
    sampler.sample(60_000, backend=backend)  # long enough that even a busy machine runs the other thread
    mine, all_of_it = time.thread_time() - mine, time.process_time() - all_of_it
    assert all_of_it - mine > 0.1 * all_of_it
