"""Draws from ensembles: the laws of samplers for one mask and for all of them, and samplers that are never stale."""

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

import made_fast.sampling.ensemble_sampler
from made_fast import MADE, Sampler, backends
from made_fast.masks.mask_set import EVALUATION_MASKS, masks_of_rows
from made_fast.sampling.ensemble_sampler import EnsembleSampler
from made_fast.testing import naive_sample, unexplained_differences

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]
USABLE = [
    backend.name
    for backend in backends.BACKENDS
    if backends.why_not(backend, backends.Needs(torch.device("cpu"), torch.float32)) is None
]
COMPILED = [name for name in USABLE if name != "reference"]
PLAIN = {"hidden_features": (14, 11), "num_masks": 3, "direct": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "everything": {
        **{"hidden_features": (12, 12), "residual": True, "direct": True, "context_features": 2},
        **{"num_masks": 3, "mask_conditioning": True},
    },
    "orders": {"hidden_features": (16,), "num_masks": 5, "shuffle": "order", "mask_conditioning": True},
    "connectivity": {"hidden_features": (16, 9), "num_masks": 2, "shuffle": "connectivity", "order": "random"},
    "endless": {"hidden_features": (16,), "num_masks": 0, "context_features": 1, "activation": "gelu"},
    "belief_network": {"hidden_features": (), "direct": True, "num_masks": 4},
}
FALSE_ALARM = 1e-5  # how often a correct sampler fails one of the tests of chance, over all seeds; the seed is fixed


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def choice(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options of one ensemble."""
    return request.param


@pytest.mark.parametrize(
    ("backend", "dtype"), [*((name, torch.float32) for name in COMPILED), ("reference", torch.float64)]
)
def test_laws_3_and_5(
    build: Build, make_context: Context, choice: dict[str, Any], backend: str, dtype: torch.dtype
) -> None:
    """Whatever the mode and the current mask; with a context each of 12 has 5 rows."""
    model = build(choice, dtype)
    model.next_mask()
    single, context = dtype == torch.float32, make_context(model, 12)
    count, repeated = (60, None) if context is None else (5, context.repeat_interleave(5, 0))
    for mask in (None, 0, 1, 40 if model.num_masks == 0 else model.num_masks - 1):
        options: dict[str, Any] = {"seed": 11, "first_row": 3, "mask": mask}
        naive = naive_sample(model, count, context=context, **options)
        x, log_prob = model.sample_and_log_prob(count, context, backend=backend, **options)
        assert x.shape == naive.shape
        assert log_prob.shape == x.shape[:-1]
        rows = x.reshape(60, 9)
        assert not unexplained_differences(model, rows, context=repeated, **options).any()
        assert (x != naive).any(-1).sum() <= int(single)  # a uniform within 1e-5 of its threshold
        assert len(rows.unique(dim=0)) > 5
        chosen = model.ensemble.evaluated if mask is None else mask
        expected = model.log_prob(rows, repeated, masks=chosen).detach().reshape(log_prob.shape)
        torch.testing.assert_close(log_prob, expected, rtol=1e-5 if single else 1e-12, atol=1e-5 if single else 1e-12)
        assert torch.equal(model.sample(count, context, backend=backend, **options), x)
        assert not log_prob.requires_grad
    x, log_prob = model.eval().sample_and_log_prob(count, context, seed=1, backend=backend)
    given = None if context is None else context[:, None]
    torch.testing.assert_close(log_prob, model.log_prob(x, given).detach(), rtol=1e-5, atol=1e-5)


def test_the_check_of_law_3_knows_the_masks(build: Build) -> None:
    model = build({**PLAIN, "num_masks": 8})
    x = model.sample(400, seed=4)
    assert not unexplained_differences(model, x, seed=4).any()
    assert unexplained_differences(model, x, seed=4, mask=0).any()
    assert unexplained_differences(model, model.sample(400, seed=4, mask=1), seed=4).any()
    assert not torch.equal(naive_sample(model, 40, seed=4), naive_sample(model, 40, seed=4, mask=0))


@pytest.mark.parametrize("backend", USABLE)
def test_law_4_rows_do_not_depend_on_the_request(
    build: Build, make_context: Context, choice: dict[str, Any], set_threads: Any, backend: str
) -> None:
    model = build(choice, torch.float32 if backend in COMPILED else torch.float64)
    sampler, context, first_row = model.sampler(), make_context(model, 1), 2**32 - 70

    def rows(a: int, b: int, **more: Any) -> tuple[Tensor, Tensor]:
        options = {"seed": 2**40 + 1, "backend": backend, "first_row": first_row + a, **more}
        x, log_prob = sampler.sample_and_log_prob(b - a, context, **options)
        return x.reshape(b - a, 9), log_prob.reshape(b - a)

    x, log_prob = rows(0, 80)
    set_threads(2)
    for a, b in [(0, 1), (79, 80), (7, 53), (60, 60)]:
        found = rows(a, b)
        assert torch.equal(found[0], x[a:b])
        torch.testing.assert_close(found[1], log_prob[a:b], rtol=1e-5, atol=1e-5)
    picked = torch.randperm(80)[:30]
    assert torch.equal(rows(0, 30, rows=first_row + picked, first_row=0)[0], x[picked])


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("name", ["everything", "endless"])
def test_law_4_each_context_has_its_own_rows(build: Build, make_context: Context, name: str, backend: str) -> None:
    model = build(OPTIONS[name], torch.float32 if backend in COMPILED else torch.float64)
    context = make_context(model, 6)
    x, log_prob = model.sample_and_log_prob(11, context, seed=8, first_row=100, backend=backend)
    assert x.shape == (6, 11, 9)
    for b in range(6):
        alone = model.sample_and_log_prob(11, context[b : b + 1], seed=8, first_row=100 + 11 * b, backend=backend)
        assert torch.equal(alone[0][0], x[b])
        torch.testing.assert_close(alone[1][0], log_prob[b], rtol=1e-5, atol=1e-5)


def test_law_4_python_threads_at_once(build: Build) -> None:
    model = build({**PLAIN, "num_masks": 6}, torch.float32)

    def job(seed: int) -> Tensor:
        return model.sample(30 * seed + 1, seed=seed)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(job, range(10)))
    assert all(torch.equal(drawn, job(seed)) for seed, drawn in enumerate(together))


def _chi_square(x: Tensor, probabilities: Tensor) -> float:
    """p-value of samples (n, D) against the enumerated distribution (2**D,)."""
    cells = (x.long() << torch.arange(x.shape[1])).sum(1)
    observed, expected = torch.bincount(cells, minlength=len(probabilities)).double(), probabilities * len(x)
    rare = expected < 5
    observed = torch.cat([observed[~rare], observed[rare].sum(0, keepdim=True)])
    expected = torch.cat([expected[~rare], expected[rare].sum(0, keepdim=True)]).clamp(min=1e-9)
    return float(chi2.sf(float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1))


def test_law_7_samples_follow_the_enumerated_mean(
    build: Build, make_context: Context, all_states: Callable[..., Tensor], choice: dict[str, Any]
) -> None:
    model = build(choice, torch.float32, features=6).eval()
    context = make_context(model, 1)
    x = model.sample(20_000, context, seed=21).reshape(-1, 6)
    with torch.no_grad():
        states = all_states(6, torch.float32)
        mean, first = (model.log_prob(states, context, masks=chosen).double().exp() for chosen in (None, 0))
    assert _chi_square(x, mean) > FALSE_ALARM
    assert _chi_square(x, first) < FALSE_ALARM  # one mask is another distribution
    assert _chi_square(model.sample(20_000, context, seed=21, mask=0).reshape(-1, 6), first) > FALSE_ALARM


def test_rows_take_masks_uniformly_and_independently_of_all_else() -> None:
    rows = torch.arange(60_000)
    for num_masks in (2, 3, 7, EVALUATION_MASKS):
        found = masks_of_rows(5, rows, num_masks)
        expected = torch.full((num_masks,), len(rows) / num_masks, dtype=torch.float64)
        statistic = ((found.bincount(minlength=num_masks) - expected) ** 2 / expected).sum()
        assert chi2.sf(float(statistic), num_masks - 1) > FALSE_ALARM
        assert torch.equal(masks_of_rows(5, rows[77:99], num_masks), found[77:99])
    assert not torch.equal(masks_of_rows(6, rows, 3), masks_of_rows(5, rows, 3))
    assert masks_of_rows(5, rows[:0], 3).shape == (0,)


def _step(model: MADE) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.log_prob(torch.ones(4, 9, dtype=torch.float64)).sum().backward()
    optimizer.step()


def _one_weight(model: MADE) -> None:
    model.parameters_layer.bias.data[3] += 50


def _another_order(model: MADE) -> None:
    model.ensemble.orders.copy_(model.ensemble.orders.flip(1))


def _other_masks(model: MADE) -> None:
    model.load_state_dict(MADE(9, **PLAIN, seed=8).double().state_dict(), assign=True)


@pytest.mark.parametrize("change", [_step, _one_weight, _another_order, _other_masks])
def test_samples_are_never_stale(build: Build, change: Callable[[MADE], None]) -> None:
    model = build(PLAIN)
    frozen, one = model.sampler(), model.sampler(mask=2)
    before = model.sample(40, seed=6), model.sample(40, seed=6, mask=2)
    change(model)
    for mask, old in zip((None, 2), before, strict=True):
        drawn = model.sample(40, seed=6, mask=mask)
        assert not torch.equal(drawn, old)
        assert torch.equal(drawn, naive_sample(model, 40, seed=6, mask=mask))
    assert torch.equal(frozen.sample(40, seed=6), before[0])  # a sampler is a snapshot, also of masks not drawn yet
    assert torch.equal(frozen.of_mask(2).sample(40, seed=6), before[1])
    assert torch.equal(one.sample(40, seed=6), before[1])


def test_each_mask_is_packed_once_and_when_needed(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model, packed = build(PLAIN), []
    cpp = backends.load(next(backend for backend in backends.BACKENDS if backend.name == USABLE[0]))
    pack = cpp.pack
    monkeypatch.setattr(cpp, "pack", lambda *arguments: packed.append(1) or pack(*arguments))
    kept = model.sampler()
    assert packed == []
    for _ in range(3):
        model.next_mask()  # changes what is current, and no sampler
        model.sample(10, mask=1)
        assert model.sampler() is kept
        assert model.sampler(mask=1) is kept.of_mask(1)
    assert packed == [1]
    for _ in range(3):
        model.sample(100)
        model.eval().sample_and_log_prob(100)
    assert packed == [1] * 3
    assert isinstance(kept, EnsembleSampler)
    assert isinstance(model.sampler(mask=0), Sampler)
    one = MADE(9, (8,))
    assert one.sampler(mask=0) is one.sampler()


def test_both_kinds_of_sampler_take_the_same_arguments() -> None:
    for name in ("sample", "sample_and_log_prob"):
        assert inspect.signature(getattr(EnsembleSampler, name)) == inspect.signature(getattr(Sampler, name))


def test_packed_weights_have_a_limit(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(PLAIN)
    expected = model.sample(50, seed=1)
    monkeypatch.setattr(made_fast.sampling.ensemble_sampler, "_PACKED_BYTES", 1)
    sampler = build(PLAIN).sampler()
    for _ in range(2):
        assert torch.equal(sampler.sample(50, seed=1), expected)
        assert len(sampler._samplers) == 1


def test_log_probabilities_come_in_pieces(build: Build, make_context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(OPTIONS["everything"])
    context = make_context(model, 7)
    x, log_prob = model.sample_and_log_prob(9, context, seed=1)
    monkeypatch.setattr(made_fast.sampling.ensemble_sampler, "_VALUES_AT_ONCE", 100)
    again = model.sample_and_log_prob(9, context, seed=1)
    assert torch.equal(again[0], x)
    torch.testing.assert_close(again[1], log_prob)


def test_dtypes_smallest_requests_and_progress(build: Build, capsys: Any) -> None:
    model, given = build(PLAIN), build(OPTIONS["everything"])
    expected, context = model.sample(30, seed=1), torch.zeros(2, 2)
    for dtype in (torch.uint8, torch.bool, torch.float32):
        x, log_prob = model.sample_and_log_prob(30, seed=1, dtype=dtype)
        assert x.dtype == model.sample(3, dtype=dtype).dtype == dtype
        assert torch.equal(x.double(), expected)
        assert log_prob.dtype == torch.float64
    assert [t.shape for t in model.sample_and_log_prob(0)] == [(0, 9), (0,)]
    assert [t.shape for t in model.sample_and_log_prob(1)] == [(1, 9), (1,)]
    assert given.sample(0, context).shape == (2, 0, 9)
    assert given.sample(4, context[:0]).shape == (0, 4, 9)
    assert [t.shape for t in given.sample_and_log_prob(1, context)] == [(2, 1, 9), (2, 1)]
    capsys.readouterr()
    assert torch.equal(model.sample(30, seed=1, progress=True), expected)
    assert "30" in capsys.readouterr().err
    torch.manual_seed(4)
    first = model.sample(60)
    assert not torch.equal(model.sample(60), first)
    torch.manual_seed(4)
    assert torch.equal(model.sample(60), first)
    assert torch.equal(*(model.sample(60, generator=torch.Generator().manual_seed(2)) for _ in range(2)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(build: Build, make_context: Context, dtype: torch.dtype) -> None:
    model = build(OPTIONS["everything"], dtype)
    context = make_context(model, 4)
    x, log_prob = model.sample_and_log_prob(20, context, seed=2)
    in_single = build(OPTIONS["everything"], dtype).float()
    expected = in_single.sample_and_log_prob(20, context.float(), seed=2)
    assert x.dtype == dtype
    assert torch.equal(x.float(), expected[0])
    torch.testing.assert_close(log_prob, expected[1])
    assert model.sampler() is model.sampler()


def test_autocast_and_inference_mode_change_nothing(build: Build) -> None:
    model = build({**PLAIN, "mask_conditioning": True}, torch.float32)
    x, log_prob = model.sample_and_log_prob(50, seed=1)
    for mode in (torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode()):
        with mode:
            again = model.sample_and_log_prob(50, seed=1)
            other = build({**PLAIN, "mask_conditioning": True}, torch.float32).sample(50, seed=1)
        assert torch.equal(again[0], x)
        assert torch.equal(again[1], log_prob)
        assert torch.equal(other, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.log_prob(x, masks=range(3))
    assert ((found - log_prob).abs() < 0.05 * log_prob.abs() + 0.3).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": -1}, r"num_samples must be .*, got -1"),
        ({"first_row": 0.5}, r"first_row must be .*, got 0\.5"),
        ({"rows": torch.zeros(2).long()}, r"rows must be .* \(3,\), .*, got torch\.int64 \(2,\)"),
        ({"seed": 1.5}, r"seed must be .*, got 1\.5"),
        ({"backend": "abacus"}, r"backend must be .*, got 'abacus'"),
        ({"num_samples": 0, "backend": "abacus"}, r"backend must be .*, got 'abacus'"),
        ({"context": torch.zeros(2, 3)}, r"context must be None .*\(2, 3\)"),
    ],
)
def test_bad_requests_are_named(build: Build, arguments: dict[str, Any], message: str) -> None:
    model = build(PLAIN)
    for call in (model.sample, model.sample_and_log_prob, model.sampler().sample):
        with pytest.raises(ValueError, match=rf"^{message}\Z"):
            call(**{"num_samples": 3, **arguments})
    with pytest.raises(ValueError, match=r"^mask must be given for bf16_weights in an ensemble, got None\Z"):
        model.sampler(bf16_weights=True)
    with torch.no_grad():
        model.parameters_layer.bias[2] = torch.nan
    with pytest.raises(ValueError, match=r"^weights must be finite"):
        model.sample(2)


def test_schedules_outlive_a_change_of_the_weights_but_not_of_the_masks(build: Build) -> None:
    """Finding one takes longer than drawing a thousand rows."""
    model = build({"hidden_features": (14,), "num_masks": 3})
    model.sample(60, seed=1)
    first = model.sampler()
    with torch.no_grad():
        model.parameters_layer.weight.mul_(2)
    second = model.sampler()
    model.sample(60, seed=1)
    assert isinstance(first, EnsembleSampler) and isinstance(second, EnsembleSampler)
    assert second is not first
    assert all(second.schedules[mask] is first.schedules[mask] for mask in range(3))
    model.ensemble.orders[1] = model.ensemble.orders[1].flip(0)
    assert model.sampler().schedules == {}
    assert torch.equal(model.sample(60, seed=1, mask=1), naive_sample(model, 60, seed=1, mask=1))
