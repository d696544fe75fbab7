"""What is driven through a compiled module with sanitizers: draws on every path, masked products, packing, edges, threads."""

from __future__ import annotations

import copy
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.campaigns import edges, isolated

REFUSALS = (FloatingPointError,)  # of good requests: parameters became nan
SHAPES = (0, 1, 2, 7, 15, 16, 17, 31, 33, 64, 100)
BATCHES = (0, 1, 2, 3, 5, 8, 17, 48, 97, 130)


def child(seed: int, first: int, count: int) -> None:
    """The attempts [first, first + count), in this process."""
    isolated.use_module()
    torch.set_num_threads(2)
    kinds: dict[str, Callable[[random.Random, int, int], None]] = {
        "draws": _draws,
        "products": _products,
        "networks": _networks,
        "overflow": _overflow,
        "threads": _threads,
    }
    calls = edges.Calls()
    for number in range(first, first + count):
        rng = isolated.rng_of(seed, number, "sanitized")
        kind = rng.choices((*kinds, "program", "draw", "side", "product"), (6, 4, 4, 1, 1, 4, 2, 2, 1))[0]
        if kind in kinds:
            isolated.attempt(
                kind, number, lambda kind=kind, rng=rng, number=number: kinds[kind](rng, seed, number), REFUSALS
            )
        else:
            isolated.attempt(
                f"edges: {kind}", number, lambda kind=kind, rng=rng: getattr(calls, kind)(rng), edges.REFUSALS
            )


def _draws(rng: random.Random, seed: int, number: int) -> None:
    """A random trial on every path of the engine; all must agree."""
    from benchmarks.campaigns.trials import trial_of
    from benchmarks.campaigns.ways import all_ways, draw

    trial = trial_of(seed, number)
    drawn = {way.name: draw(way, trial) for way in all_ways(["cpp"])}
    whole = drawn.pop("cpp")
    assert whole is not None
    for name, found in drawn.items():
        if found is not None:
            assert found.same_in_pieces, name
            if torch.isfinite(found.x).all() and trial.model.ensemble is None:
                far = (found.x - whole.x).abs() > 1e-3 * whole.x.abs().clamp(min=1)
                assert far.any(1).double().mean() < 0.05 or len(far) < 50, name


def _products(rng: random.Random, seed: int, number: int) -> None:
    """Forward, input gradient and weight gradient of a random mask, against the dense product."""
    from made_fast.backends.cpp import engine as cpp
    from made_fast.masks.plan import plan_from_degrees, plan_from_mask

    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    rows, columns, batch = rng.choice(SHAPES[1:]), rng.choice(SHAPES[1:]), rng.choice(BATCHES)
    dtype = rng.choice((torch.float32, torch.float64))
    if rng.random() < 0.5:
        degrees = [torch.randint(0, 20, (size,), generator=generator) for size in (rows, columns)]
        plan = plan_from_degrees(degrees[0].numpy(), degrees[1].numpy())
        mask = degrees[0][:, None] >= degrees[1]
    else:
        mask = torch.rand(rows, columns, generator=generator) < rng.choice((0.0, 0.1, 0.5, 1.0))
        plan = plan_from_mask(mask.numpy())

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    x, weight, bias, grad = drawn(batch, columns), drawn(rows, columns), drawn(rows), drawn(batch, rows)
    weight = torch.where(mask, weight, 0)
    for isa in cpp.build_config()["instruction_sets"]:  # type: ignore[attr-defined]
        pairs = [
            (cpp.masked_linear(x, weight, plan, bias, isa=isa), x @ weight.T + bias),
            (cpp.masked_linear(x, weight, plan, isa=isa), x @ weight.T),
            (cpp.masked_linear_grad_input(grad, weight, plan, isa=isa), grad @ weight),
            (cpp.masked_linear_grad_weight(grad, x, plan, isa=isa), torch.where(mask, grad.T @ x, 0)),
        ]
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def _networks(rng: random.Random, seed: int, number: int) -> None:
    """A network, or several one after another, forward and backward in one call, against fp64 by layers."""
    from made_fast import MADE
    from made_fast.backends.cpp import engine as cpp
    from made_fast.flows import MaskedAutoregressiveFlow
    from made_fast.models.whole import Whole
    from made_fast.outputs import Categorical

    torch.manual_seed(rng.randrange(2**31))
    features, rows, context = rng.choice((1, 2, 5, 16, 17, 40)), rng.choice(BATCHES[1:]), rng.choice((0, 0, 3))
    hidden = tuple(rng.choice((1, 7, 16, 33)) for _ in range(rng.choice((0, 1, 2, 3))))
    options: dict[str, Any] = {
        "context_features": context,
        "activation": rng.choice(("relu", "gelu", "tanh", "silu", "elu", "softplus")),
        "direct": rng.random() < 0.4,
        "order": rng.choice(("natural", "random")),
    }
    if rng.random() < 0.4 and hidden:
        model: Any = MaskedAutoregressiveFlow(features, rng.choice((1, 3)), hidden, context, activation="tanh")
    else:
        sizes = [rng.choice((1, 2, 5)) for _ in range(features)]
        output = rng.choice(("bernoulli", "normal", "spin", Categorical(sizes)))
        model = MADE(features, hidden, output=output, seed=number, **options)
    x, c = torch.randn(rows, features), torch.randn(rows, context) if context else None
    name = getattr(getattr(model, "output", None), "name", "")
    if name in ("bernoulli", "spin"):
        x = (x > 0).float() if name == "bernoulli" else x.sign()
    elif name == "categorical":
        x = (torch.rand(rows, features) * torch.tensor(sizes)).floor()

    def found(of: Any, dtype: torch.dtype) -> list[Tensor]:
        of = copy.deepcopy(of).to(dtype)
        inputs = [x.to(dtype).requires_grad_(), *([] if c is None else [c.to(dtype).requires_grad_()])]
        total = of.log_prob(*inputs)
        wanted = [*inputs, *of.parameters()]
        grads = torch.autograd.grad(total.sum(), wanted, allow_unused=True)
        return [total, *(torch.zeros_like(w) if g is None else g for w, g in zip(wanted, grads, strict=True))]

    call_by, Whole.call_by = Whole.call_by, lambda *_: None  # type: ignore[method-assign, assignment]
    try:
        expected = found(model, torch.float64)
    finally:
        Whole.call_by = call_by  # type: ignore[method-assign]
    for isa in cpp.build_config()["instruction_sets"]:  # type: ignore[attr-defined]
        os.environ["MADE_FAST_ISA"] = isa
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-3)):
            for one, other in zip(found(model, dtype), expected, strict=True):
                scale = float(other.detach().abs().max()) + 1
                torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance * scale)
    del os.environ["MADE_FAST_ISA"]


def _overflow(rng: random.Random, seed: int, number: int) -> None:
    """Weights so large that parameters become infinite or nan: FloatingPointError or draws, nothing else."""
    from benchmarks.campaigns.trials import trial_of
    from benchmarks.campaigns.ways import all_ways, draw

    trial = trial_of(seed, number)
    largest = torch.finfo(trial.model.parameters_layer.weight.dtype).max
    with torch.no_grad():
        for parameter in trial.model.parameters():
            parameter.mul_(rng.choice((1e10, 1e30, largest))).clamp_(-largest, largest).nan_to_num_(0.0)
    for way in all_ways(["cpp"])[1:]:
        draw(way, trial)


def _threads(rng: random.Random, seed: int, number: int) -> None:
    """Several threads draw from one sampler: each gets what one alone gets."""
    stress(rng.randrange(2**31), threads=3, calls=4)


def stress(seed: int, *, threads: int, calls: int) -> int:
    """Rows that several threads drew from one sampler at the same time and that differ from those of one thread alone.

    Raises:
        AssertionError: there are such rows.
    """
    from made_fast import MADE
    from made_fast.outputs import Categorical

    torch.manual_seed(seed)
    models = [MADE(30, (64, 64)), MADE(9, (32,), output=Categorical(12), num_masks=3).eval()]
    wrong: list[int] = []
    for model in models:
        sampler = model.sampler()
        expected = {size: sampler.sample(size, seed=size) for size in (1, 7, 64, 300)}
        barrier = threading.Barrier(threads)

        def drawing(number: int, sampler: Any = sampler, expected: Any = expected, barrier: Any = barrier) -> None:
            barrier.wait()
            for call in range(calls):
                size = list(expected)[(number + call) % len(expected)]
                wrong.append(int((sampler.sample(size, seed=size) != expected[size]).any(1).sum()))

        started = [threading.Thread(target=drawing, args=(number,)) for number in range(threads)]
        for each in started:
            each.start()
        for each in started:
            each.join()
    assert len(wrong) == len(models) * threads * calls and not any(wrong), wrong
    return len(wrong)
