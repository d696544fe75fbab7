"""accelerate: modules that are no library's, written by hand in several styles, and what must be refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from capture_models import (
    FUNCTIONS,
    SPECIAL,
    AttributeMasks,
    Bent,
    C,
    Categories,
    Conditioned,
    Constant,
    D,
    H,
    Joined,
    Keyword,
    MaskedInForward,
    Positional,
    Sequence,
    Triangles,
    double,
)
from quick import every
from torch import Tensor, nn
from torch.nn.utils import prune

import made_fast
from made_fast.backends import reference
from made_fast.capture.captured import CaptureError, capture
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.kinds import make_output
from made_fast.outputs.mixtures import MixtureOfLogistics
from made_fast.outputs.normal import Normal
from made_fast.programs import program

TOLERANCE = 1e-12


def naive(module: nn.Module, sampler: Any, count: int, *, seed: int, forward: Callable[[Tensor], Tensor]) -> Tensor:
    """Draws by D passes of the module's own forward, which gives variable-major parameters."""
    rows = torch.arange(count)
    with torch.no_grad():
        x, _ = reference.naive_draw(forward, sampler.order, sampler.conditionals, rows, seed=seed, dtype=torch.float64)
    return x


def assert_same_draws(module: nn.Module, sampler: Any, forward: Callable[[Tensor], Tensor] | None = None) -> None:
    expected = naive(module, sampler, 60, seed=3, forward=forward or module)
    for backend in ("reference", "auto"):
        found = sampler.sample(60, seed=3, backend=backend)
        assert found.dtype == torch.float64
        assert (found - expected).abs().max() <= (TOLERANCE if backend == "reference" else 1e-9)
    assert sampler.capture.difference <= TOLERANCE


@pytest.mark.parametrize("params", [1, 2])
def test_masks_made_in_forward(params: int) -> None:
    torch.manual_seed(0)
    module = double(MaskedInForward(params))
    sampler = made_fast.accelerate(module, output=None if params == 1 else Normal())
    assert torch.equal(sampler.order, module.rank.argsort())
    assert sampler.capture.layout == ("variable-major" if params == 1 else "parameter-major")
    assert_same_draws(module, sampler, lambda x: module(x).view(-1, params, D).transpose(1, 2).flatten(1))


def test_masks_in_attributes() -> None:
    torch.manual_seed(0)
    module = double(AttributeMasks())
    sampler = made_fast.accelerate(module)
    assert sampler.order.tolist() == list(range(D))
    assert_same_draws(module, sampler)


def test_lower_triangles() -> None:
    torch.manual_seed(0)
    module = double(Triangles())
    sampler = made_fast.accelerate(module, features=D, output=Normal())
    assert_same_draws(module, sampler, lambda x: module(x).flatten(1))


def test_convolutions() -> None:
    torch.manual_seed(0)
    module = double(Sequence())
    assert_same_draws(module, made_fast.accelerate(module, features=D))


@pytest.mark.parametrize("name", every(4, [each for each in FUNCTIONS if each != "flip"]))
def test_operations(name: str) -> None:
    torch.manual_seed(0)
    found = capture(double(Bent(name)), D)
    assert found.difference <= TOLERANCE
    assert found.order.tolist() == list(range(D))


@pytest.mark.parametrize("name", [each for each in SPECIAL if each != "cast"])
def test_operations_that_not_every_program_has(name: str) -> None:
    torch.manual_seed(0)
    needed = "exp" if name == "exp" else "reciprocal"
    if needed in program.FUNCTIONS:
        assert capture(double(Bent(name)), D).difference <= TOLERANCE
    else:
        with pytest.raises(CaptureError, match=f"there is no {needed} among the functions"):
            capture(double(Bent(name)), D)


def test_a_flipped_result_is_no_more_autoregressive() -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"variable \d depend"):
        capture(double(Bent("flip")), D)


@pytest.mark.parametrize("kind", [Positional, Keyword, Joined])
def test_contexts(kind: type[Conditioned]) -> None:
    torch.manual_seed(0)
    module = double(kind(""))
    sampler = made_fast.accelerate(module, features=D, context_features=C)
    context = torch.randn(4, C, dtype=torch.float64)
    x, log_prob = sampler.sample_and_log_prob(5, context, seed=1)
    assert x.shape == (4, 5, D)
    logits = module.both(x.flatten(0, 1), context.repeat_interleave(5, 0))
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x.flatten(0, 1)).sum(-1)
    assert torch.allclose(log_prob.flatten(), expected, atol=1e-9)


def test_own_calls() -> None:
    torch.manual_seed(0)
    module = double(Positional(""))
    sampler = made_fast.accelerate(
        module, features=D, context_features=C, call=lambda module, x, context: module.both(x, 2 * context)
    )
    assert sampler.capture.difference <= TOLERANCE


@pytest.mark.parametrize("one_hot", [True, False])
def test_categories(one_hot: bool) -> None:
    torch.manual_seed(0)
    sizes = (3, 2, 4, 3)
    module = double(Categories(sizes, one_hot))
    sampler = made_fast.accelerate(module, features=4, output=Categorical(sizes))

    def forward(x: Tensor) -> Tensor:
        columns = [F.one_hot(x[:, each].long(), size).to(x) for each, size in enumerate(sizes)]
        return module(torch.cat(columns, 1) if one_hot else x)

    assert_same_draws(module, sampler, forward)


def test_outputs_that_rescale_still_hand_over_raw_values() -> None:
    torch.manual_seed(0)
    module = double(MaskedInForward(3))
    module.first.weight.data /= 50
    sampler = made_fast.accelerate(module, output=MixtureOfLogistics(1))
    assert_same_draws(module, sampler, lambda x: module(x).view(-1, 3, D).transpose(1, 2).flatten(1))


def test_the_module_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    module = Triangles()
    module.norm.eval()
    before = copy.deepcopy(module.state_dict())
    sampler = made_fast.accelerate(module, features=D, output=Normal())
    assert module.training and not module.norm.training and sampler.dtype == torch.float32
    assert sampler.sample(3, seed=0).dtype == torch.float32
    assert all(each.requires_grad for each in module.parameters())
    assert all(torch.equal(before[name], now) for name, now in module.state_dict().items())


@pytest.mark.slow
def test_changes_of_the_module_are_noticed() -> None:
    torch.manual_seed(0)
    module = double(AttributeMasks())
    follows, refuses, keeps = (made_fast.accelerate(module, stale=how) for how in ("refresh", "raise", "keep"))
    first = follows.sampler
    old = follows.sample(20, seed=0)
    assert follows.sampler is first
    changes: list[Callable[[], Any]] = [
        lambda: module.layers[0].weight.data.mul_(2),  # which leaves the version counter alone
        lambda: module.masks[1].mul_(0.5),
        lambda: np.multiply(module.last_mask, 0.5, out=module.last_mask),
        lambda: setattr(module, "bend", nn.Tanh()),
    ]
    for change in changes:
        sampler = follows.sampler
        change()
        with pytest.raises(RuntimeError, match="module has changed"):
            refuses.sample(1)
        refuses.refresh()
        assert_same_draws(module, follows)
        assert follows.sampler is not sampler
    assert torch.equal(keeps.sample(20, seed=0), old)


def test_summary() -> None:
    module = double(AttributeMasks())
    summary = made_fast.accelerate(module).summary()
    assert summary.order == tuple(range(D)) and summary.levels == tuple(range(D)) and summary.num_steps == D
    assert 0 < summary.macs < summary.dense_macs and summary.cut_off == ()
    assert "sequential steps" in str(summary)


@pytest.mark.parametrize("name", ["bernoulli", "spin"])
def test_own_models_are_captured_too(name: str) -> None:
    torch.manual_seed(0)
    model = made_fast.MADE(D, [H, H], output=make_output(name), residual=True).double()
    sampler = made_fast.accelerate(model, features=D, output=name, call=lambda module, x, context: module(x))
    assert torch.equal(sampler.sample(50, seed=2), model.sample(50, seed=2))
    assert sampler.num_steps == model.sampler().num_steps


@pytest.mark.parametrize("kind", ["weight norm", "pruned", "compiled", "parallel"])
def test_weights_that_are_computed_and_modules_that_wrap(kind: str) -> None:
    torch.manual_seed(0)
    module: Any = double(MaskedInForward())
    expected = module
    match kind:
        case "weight norm":
            torch.nn.utils.parametrizations.weight_norm(module.first)
        case "pruned":
            prune.l1_unstructured(module.first, "weight", 0.3)
        case "compiled":
            module = torch.compile(module, backend="eager")
        case "parallel":
            module = nn.DataParallel(module)
    assert_same_draws(expected, made_fast.accelerate(module))


def test_one_variable_and_half_precision() -> None:
    module = Triangles(1).half().eval()
    sampler = made_fast.accelerate(module, features=D, output=Normal())
    assert sampler.dtype == torch.float16 and sampler.sample(2, seed=0).dtype == torch.float16
    constant = Constant().double()
    sampler = made_fast.accelerate(constant, features=1)
    assert_same_draws(constant, sampler)
    assert sampler.summary().share == 0


def test_casts_of_the_module_itself_are_forgiven_their_rounding() -> None:
    torch.manual_seed(0)
    module = double(Bent("cast"))
    assert 1e-12 < capture(module, D).difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, pytest.param(lambda sampler: pickle.loads(pickle.dumps(sampler)), marks=pytest.mark.slow)],
)
def test_a_copy_is_of_sampler_and_module(duplicate: Callable[[Any], Any]) -> None:
    torch.manual_seed(0)
    module = double(MaskedInForward())
    for stale in ("refresh", "raise", "keep"):
        sampler = made_fast.accelerate(module, stale=stale)
        expected = sampler.sample(20, seed=0)
        twin = duplicate(sampler)
        assert not twin.is_stale and twin.module is not module
        assert torch.equal(twin.sample(20, seed=0), expected)
        with torch.no_grad():
            twin.module.first.weight.add_(1)
        assert twin.is_stale and not sampler.is_stale
        late = duplicate(twin)
        assert late.is_stale
        if stale == "raise":
            with pytest.raises(RuntimeError, match="has changed"):
                late.sample(1)
        else:
            fresh = made_fast.accelerate(late.module).sample(20, seed=0)
            assert torch.equal(late.sample(20, seed=0), expected if stale == "keep" else fresh)
            assert not torch.equal(expected, fresh)


def test_a_module_may_hold_its_own_sampler() -> None:
    module = double(MaskedInForward())
    module.drawn = made_fast.accelerate(module)
    expected = module.drawn.sample(5, seed=0)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin.drawn.module is twin
        assert torch.equal(twin.drawn.sample(5, seed=0), expected)
