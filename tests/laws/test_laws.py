"""The laws of an exact autoregressive model and its samplers, for every option of MADE."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from made_fast import MADE, MaskedLinear, backends, noise
from made_fast.programs.program import Affine, Program
from made_fast.testing import naive_sample, unexplained_differences

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]
USABLE = [
    backend.name
    for backend in backends.BACKENDS
    if backends.why_not(backend, backends.Needs(torch.device("cpu"), torch.float32)) is None
]
COMPILED = [name for name in USABLE if name != "reference"]


def _jacobians(model: MADE, draws: int) -> tuple[Tensor, Tensor]:
    """Largest |d parameter / d x| (P, D) and |d parameter / d context| (P, C) over several weights and points."""
    features, width = model.features, model.context_features
    largest = torch.zeros(features, features + width, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for _ in range(draws):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        point = torch.randn(16, features + width, generator=generator, dtype=torch.float64)
        point = point.expand(features, -1, -1).clone().requires_grad_()  # (P, 16, D + C): a copy for each parameter
        params = model(point[..., :features], point[..., features:] if width else None)
        alone = params.diagonal(dim1=0, dim2=2).sum()  # copy i counts for parameter i only
        if alone.requires_grad:
            (gradient,) = torch.autograd.grad(alone, point, allow_unused=True)
            largest = torch.maximum(largest, torch.zeros_like(largest) if gradient is None else gradient.abs().amax(1))
    return largest[:, :features], largest[:, features:]


def _paths(program: Program) -> Tensor:
    """Whether the masks leave a path from variable (column) to parameter (row)."""
    reach = [torch.eye(program.features), torch.zeros(program.context_features, program.features)]
    for op in program.ops:
        parts = [reach[source] for source in op.sources]
        if isinstance(op, Affine):
            masks = [torch.ones(t.weight.shape) if t.mask is None else t.mask.float() for t in op.terms]
            parts = [mask @ part for mask, part in zip(masks, parts, strict=True)]
        reach.append(torch.stack(parts).sum(0))
    return reach[-1] > 0


def test_law_1_jacobian_is_zero_exactly_where_the_order_says(build: Build, options: dict[str, Any]) -> None:
    model = build(options)
    rank = model.order.argsort()
    earlier = rank[None, :] < rank[:, None]  # the variable (column) is drawn before the parameter's (row)
    to_x, to_context = _jacobians(model, draws=12)
    assert not to_x[~earlier].any()
    assert torch.equal(to_x > 0, _paths(model.program()))
    wide = options["hidden_features"] and min(options["hidden_features"]) >= model.features
    if options.get("direct") or (wide and "degrees" not in options):
        assert torch.equal(to_x > 0, earlier)  # nothing that the order allows is lost
    assert (to_context > 0).all(), "context must reach every variable, the first too"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("widths", [(1,), (2, 3), (40, 40, 40)])
@pytest.mark.parametrize("degrees", ["even", "random"])
def test_law_1_context_reaches_every_variable(degrees: str, widths: tuple[int, ...], seed: int) -> None:
    model = MADE(6, widths, context_features=2, degrees=degrees, order="random", seed=seed, activation="tanh").double()
    _, to_context = _jacobians(model, draws=2)
    assert (to_context > 0).all()


@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("context", [0, 2])
def test_law_1_smallest_models(features: int, context: int) -> None:
    for hidden in ((), (1,), (5,), (5, 5)):
        model = MADE(features, hidden, context_features=context, direct=True, activation="tanh").double()
        to_x, to_context = _jacobians(model, draws=2)
        assert torch.equal(to_x > 0, torch.ones(features, features).tril(-1).bool())
        assert (to_context > 0).all()


def test_law_2_probabilities_sum_to_one(
    build: Build, make_context: Context, all_states: Callable[..., Tensor], options: dict[str, Any]
) -> None:
    model = build(options)
    x, context = all_states(model.features), make_context(model, 3)
    for each in [None] if context is None else list(context):
        total = model.log_prob(x, each).logsumexp(0)
        assert abs(total.item()) < 1e-13


@pytest.mark.parametrize("name", ["natural", "random", "residual_direct_context", "belief_network"])
def test_law_2_with_twelve_variables(
    build: Build, make_context: Context, all_states: Callable[..., Tensor], every_option: dict[str, Any], name: str
) -> None:
    model = build(every_option[name], features=12)
    context = make_context(model, 1)
    assert abs(model.log_prob(all_states(12), context).logsumexp(0).item()) < 1e-13


def _disagreeing(model: MADE, engines: dict[str, Any], context: Tensor | None, rows: int, seed: int) -> dict[str, str]:
    """Laws 3 and 5 for each engine: which of them do not draw as the naive sampler does, and how."""
    repeat = rows if context is None else 1
    naive = naive_sample(model, repeat, seed=seed, first_row=3, context=context).reshape(rows, model.features)
    assert not unexplained_differences(model, naive, seed=seed, first_row=3, context=context).any()
    nats, program, found = model.log_prob(naive, context).detach(), model.program(), {}
    single = nats.dtype == torch.float32
    for name, engine in engines.items():
        x, log_prob = engine.draw(program, rows, seed=seed, first_row=3, context=context)
        expected = nats
        if not torch.equal(x, naive):
            wrong = unexplained_differences(model, x, seed=seed, first_row=3, context=context)
            # a uniform within 1e-5 of its threshold: one of them in 50,000 draws
            if not single or wrong.any() or (x != naive).any(1).sum() > 1 or not ((x == 0) | (x == 1)).all():
                found[name] = f"{int((x != naive).any(1).sum())} of {rows} rows differ"
                continue
            expected = model.log_prob(x, context).detach()
        if not torch.allclose(log_prob, expected, rtol=1e-5 if single else 1e-13, atol=1e-5 if single else 1e-13):
            found[name] = f"log-probabilities are off by {float((log_prob - expected).abs().max()):.2g}"
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_laws_3_and_5_on_every_engine(
    build: Build, make_context: Context, options: dict[str, Any], engines: dict[str, Any], dtype: torch.dtype
) -> None:
    model = build(options, dtype)
    assert _disagreeing(model, engines, make_context(model, 60), 60, seed=11) == {}


def test_laws_3_and_5_with_many_units(build: Build, make_context: Context, engines: dict[str, Any]) -> None:
    """More units than a panel, more rows than a tile."""
    options = {"hidden_features": (150, 90), "direct": True, "order": "random", "context_features": 5}
    model = build(options, torch.float32, features=50)
    assert _disagreeing(model, engines, make_context(model, 131), 131, seed=5) == {}


def _flips(shape: torch.Size, share: float) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) < share


@pytest.mark.parametrize("tolerance", [1e-5, 0.2])
def test_the_check_of_law_3_finds_every_corrupted_draw(
    build: Build, every_option: dict[str, Any], tolerance: float
) -> None:
    """In a model of independent variables a wrong draw changes no other, so exactly the wrong ones must be found."""
    model = build(every_option["biases"])
    x = naive_sample(model, 500, seed=4, first_row=2**33)
    flips = _flips(x.shape, 0.1)
    uniforms = noise.uniform(4, 2**33 + torch.arange(500)[:, None], model.order.argsort())
    excused = (uniforms - torch.sigmoid(model(x))).abs() <= tolerance
    found = unexplained_differences(model, (x - flips.to(x.dtype)).abs(), seed=4, first_row=2**33, tolerance=tolerance)
    assert torch.equal(found, flips & ~excused)
    assert found.any()
    assert (flips & excused).any() == (tolerance == 0.2)


@pytest.mark.parametrize("name", ["random", "residual_direct_context", "columns"])
def test_the_check_of_law_3_follows_the_prefix(
    build: Build, make_context: Context, every_option: dict[str, Any], name: str
) -> None:
    model = build(every_option[name])
    context = make_context(model, 300)
    x = naive_sample(model, 300 if context is None else 1, seed=4, context=context).reshape(300, -1)
    flips = _flips(x.shape, 0.2)[:, model.order]
    found = unexplained_differences(model, (x - flips.to(x.dtype)).abs(), seed=4, context=context)
    rank = model.order.argsort()
    first = torch.where(flips, rank, model.features).amin(1)  # step of the first flip of each row
    assert not found[rank < first[:, None]].any()
    assert found[rank == first[:, None]].float().mean() > 0.99
    assert not found[first == model.features].any()


def _same_bits(backend: str, found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    """Equal rows, and equal log-probabilities: to the bit on compiled backends, to rounding on the reference."""
    if backend in COMPILED:
        return torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    return torch.equal(found[0], expected[0]) and torch.allclose(found[1], expected[1], rtol=1e-13, atol=0)


def _rows_alone(backend: str) -> torch.dtype:
    """fp32 where rows must not depend on their neighbours; matmul in plain torch rounds by batch size, so fp64 there."""
    return torch.float32 if backend in COMPILED else torch.float64


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize(
    ("name", "first_row"),
    [("natural", 0), ("random", 2**32 - 70), ("belief_network", 5), ("residual_direct_context", 2**61)],
)
def test_law_4_rows_do_not_depend_on_the_request(
    build: Build,
    make_context: Context,
    every_option: dict[str, Any],
    set_threads: Any,
    backend: str,
    name: str,
    first_row: int,
) -> None:
    model = build(every_option[name], _rows_alone(backend))
    sampler, context = model.sampler(), make_context(model, 1)

    def rows(a: int, b: int) -> tuple[Tensor, Tensor]:
        options = {"seed": 2**40 + 1, "first_row": first_row + a, "backend": backend}
        x, log_prob = sampler.sample_and_log_prob(b - a, context, **options)
        return x.reshape(b - a, model.features), log_prob.reshape(b - a)

    set_threads(1)
    x, log_prob = rows(0, 150)
    assert len(x.unique(dim=0)) > 5
    alone = sampler.sample(150, context, seed=2**40 + 1, first_row=first_row, backend=backend)
    assert torch.equal(alone.reshape(x.shape), x)
    for threads in (1, 2, 3) if backend in COMPILED else (2,):
        set_threads(threads)
        for a, b in [(0, 150), (0, 1), (149, 150), (3, 5), (7, 16), (17, 120), (48, 96), (60, 60)]:
            assert _same_bits(backend, rows(a, b), (x[a:b], log_prob[a:b])), (threads, a, b)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("name", ["context", "context_belief_network", "residual_direct_context"])
def test_law_4_each_context_has_its_own_rows(
    build: Build, make_context: Context, every_option: dict[str, Any], backend: str, name: str
) -> None:
    """Noise rows are numbered ``first_row + b * num_samples + i``."""
    model = build(every_option[name], _rows_alone(backend))
    context = make_context(model, 6)
    assert context is not None
    x, log_prob = model.sample_and_log_prob(11, context, seed=8, first_row=100, backend=backend)
    assert x.shape == (6, 11, model.features)
    assert log_prob.shape == (6, 11)
    for b in range(6):
        alone = model.sample_and_log_prob(11, context[b : b + 1], seed=8, first_row=100 + 11 * b, backend=backend)
        assert _same_bits(backend, (alone[0][0], alone[1][0]), (x[b], log_prob[b]))
    naive = naive_sample(model, 11, seed=8, first_row=100, context=context)
    assert (x != naive).any(-1).sum() <= 1
    assert torch.allclose(log_prob, model.log_prob(x, context[:, None]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("threads", [1, 2])
def test_law_4_python_threads_at_once(build: Build, set_threads: Any, backend: str, threads: int) -> None:
    large = backend in COMPILED  # large enough for each call to wake threads of its own
    options = {"hidden_features": (200 if large else 20,), "direct": True, "order": "random"}
    model = build(options, _rows_alone(backend), features=40 if large else 9)
    jobs = [(seed, 40 * seed + 1) for seed in range(10)]

    def job(arguments: tuple[int, int]) -> tuple[Tensor, Tensor]:
        seed, rows = arguments
        torch.set_num_threads(threads)  # each Python thread has its own setting
        return model.sample_and_log_prob(rows, seed=seed, backend=backend)

    with ThreadPoolExecutor(4) as pool:  # the first of them also race for the one sampler
        together = list(pool.map(job, jobs))
    set_threads(1)
    for arguments, found in zip(jobs, together, strict=True):
        assert _same_bits(backend, found, job(arguments))


def _chi_square(x: Tensor, probabilities: Tensor) -> float:
    """p-value of samples (n, D) against the enumerated distribution (2**D,); cells expected below 5 are pooled."""
    cells = (x.long() << torch.arange(x.shape[1])).sum(1)
    observed = torch.bincount(cells, minlength=len(probabilities)).double()
    expected = probabilities * len(x)
    rare = expected < 5
    observed = torch.cat([observed[~rare], observed[rare].sum(0, keepdim=True)])
    expected = torch.cat([expected[~rare], expected[rare].sum(0, keepdim=True)])
    filled = expected > 0
    statistic = ((observed - expected)[filled] ** 2 / expected[filled]).sum()
    return float(chi2.sf(float(statistic), int(filled.sum()) - 1))


FALSE_ALARM = 1e-5  # how often a correct sampler fails one of these tests, over all seeds; the seed here is fixed


@pytest.mark.parametrize("backend", [*USABLE, "naive"])
@pytest.mark.parametrize("name", ["random", "narrow_deep", "belief_network", "residual_direct_context"])
def test_law_7_samples_follow_the_enumerated_distribution(
    build: Build,
    make_context: Context,
    all_states: Callable[..., Tensor],
    every_option: dict[str, Any],
    backend: str,
    name: str,
) -> None:
    model = build(every_option[name], torch.float32, features=6)
    context = make_context(model, 1)
    if backend == "naive":
        x = naive_sample(model, 20_000, seed=21, context=context)
    else:
        x = model.sample(20_000, context, seed=21, backend=backend)
    x = x.reshape(-1, 6)
    with torch.no_grad():
        probabilities = model.log_prob(all_states(6, torch.float32), context).double().exp()
    assert _chi_square(x, probabilities) > FALSE_ALARM
    # The test can fail: one row in ten turned round is found.
    wrong = x.clone()
    wrong[::10] = 1 - wrong[::10]
    assert _chi_square(wrong, probabilities) < FALSE_ALARM


@pytest.mark.parametrize("bias", [True, False])
def test_law_8_masked_linear(bias: bool) -> None:
    mask = torch.rand(4, 5) < 0.5
    layer = MaskedLinear(5, 4, mask, bias=bias).double()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,)).tanh()

    assert torch.autograd.gradcheck(call, (x, *parameters))
    assert torch.autograd.gradgradcheck(call, (x, *parameters))


class _LogProb(torch.nn.Module):
    """``log_prob`` as a forward, so that ``functional_call`` can put other parameters in."""

    def __init__(self, model: MADE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.model.log_prob(x, context)


@pytest.mark.parametrize(
    "arguments",
    [
        {"hidden_features": (5,)},
        {"hidden_features": (), "direct": True},
        {"hidden_features": (4, 4), "residual": True, "direct": True, "context_features": 2, "order": "random"},
        {"hidden_features": (4, 3), "context_features": 1, "order": "reversed"},
    ],
    ids=["one_layer", "belief_network", "everything", "context"],
)
def test_law_8_log_prob(build: Build, make_context: Context, arguments: dict[str, Any]) -> None:
    model = build({**arguments, "activation": "tanh"}, features=4)
    x, context = (torch.rand(3, 4) < 0.5).double(), make_context(model, 3)
    module = _LogProb(model)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def call(context: Tensor | None, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x, context))

    given = None if context is None else context.requires_grad_()
    assert torch.autograd.gradcheck(call, (given, *parameters))
    assert torch.autograd.gradgradcheck(call, (given, *parameters))


def test_law_8_masked_weights_get_no_gradient(build: Build, make_context: Context, options: dict[str, Any]) -> None:
    model = build(options)
    x = (torch.rand(64, model.features) < 0.5).double()
    model.log_prob(x, make_context(model, 64)).sum().backward()
    layers = [module for module in model.modules() if isinstance(module, MaskedLinear)]
    assert layers
    for layer in layers:
        assert layer.weight.grad is not None
        assert not layer.weight.grad[~layer.mask].any()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert any(parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("hidden_value", [1e30, torch.inf, torch.nan])
def test_law_8_what_lies_under_the_mask_has_no_effect(hidden_value: float) -> None:
    mask = torch.tensor([[True, False, True], [False, True, True]])
    layer = MaskedLinear(3, 2, mask)
    x = torch.randn(4, 3, requires_grad=True)
    expected = layer(x).detach()
    with torch.no_grad():
        layer.weight[~mask] = hidden_value
    found = layer(x)
    found.square().sum().backward()
    assert torch.equal(found, expected)
    assert torch.equal(layer.weight.grad[~mask], torch.zeros(2))
    assert x.grad.isfinite().all()
