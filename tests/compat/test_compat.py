"""compat: checkpoints of other libraries in classes with their names give the same function, and samples."""

from __future__ import annotations

import copy
import importlib
import inspect
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from peer_models import Masked as Stack
from peer_models import randomized
from quick import some
from torch import Tensor, nn

from made_fast.compat import nflows, pytorch_made

D, H, C = 6, 20, 3
ORIGINALS = {"transforms": "nflows.transforms.made", "nde": "nflows.nn.nde.made"}
VARIANTS: dict[str, dict[str, Any]] = {
    "residual": {},
    "feed-forward": {"use_residual_blocks": False},
    "random masks": {"use_residual_blocks": False, "random_mask": True},
    "context": {"context_features": C},
    "feed-forward context": {"use_residual_blocks": False, "context_features": C},
    "batch norm": {"use_batch_norm": True},
    "feed-forward batch norm": {"use_batch_norm": True, "use_residual_blocks": False, "dropout_probability": 0.2},
    "tanh": {"activation": torch.tanh, "num_blocks": 1, "dropout_probability": 0.2},
    "no blocks": {"num_blocks": 0},
    "narrow": {"hidden_features": 3},
}


def both(variant: str, name: str, params: int = 2, **options: Any) -> tuple[nn.Module, Any, Tensor | None]:
    """The original with random weights, ours with its state dict, and a context."""
    pytest.importorskip("nflows")
    torch.manual_seed(0)
    original = importlib.import_module(ORIGINALS[variant]).MADE
    arguments = {"features": D, "hidden_features": H, "output_multiplier": params, **VARIANTS[name]}
    theirs = randomized(original(**arguments).double()).eval()
    ours = nflows.MADE(**arguments, variant=variant, **options).double().eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    context = torch.randn(8, C).double() if "context_features" in arguments else None
    return theirs, ours, context


@pytest.mark.parametrize("variant", ORIGINALS)
@pytest.mark.parametrize("name", some([*VARIANTS], {"context", "feed-forward batch norm"}))
def test_nflows_checkpoints_give_the_same_function(variant: str, name: str) -> None:
    theirs, ours, context = both(variant, name, output="normal")
    x = torch.randn(8, D).double()
    expected = theirs(x, context)
    torch.testing.assert_close(ours(x, context), expected, rtol=1e-12, atol=1e-12)
    back = randomized(copy.deepcopy(theirs))  # and from ours to theirs
    back.load_state_dict(ours.state_dict())
    torch.testing.assert_close(back(x, context), expected, rtol=1e-12, atol=1e-12)
    drawn, log_prob = ours.sample_and_log_prob(1 if context is not None else 8, context, seed=0)
    torch.testing.assert_close(ours.log_prob(drawn.reshape(8, D), context), log_prob.reshape(8), rtol=1e-9, atol=1e-9)
    assert ours.sampler().capture.difference <= 1e-12


@pytest.mark.parametrize("variant", ORIGINALS)
def test_nflows_masks_and_first_weights_are_those_of_the_original(variant: str) -> None:
    pytest.importorskip("nflows")
    original = importlib.import_module(ORIGINALS[variant]).MADE
    for features, hidden, residual in itertools.product((1, 2, D), (3, H), (True, False)):
        options = {"use_residual_blocks": residual, "output_multiplier": 2}
        theirs, ours = original(features, hidden, **options), nflows.MADE(features, hidden, variant=variant, **options)
        for (name, known), found in zip(theirs.state_dict().items(), ours.state_dict().values(), strict=True):
            assert known.shape == found.shape and known.dtype == found.dtype
            if name.endswith(("mask", "degrees")):
                assert torch.equal(known, found), name
            elif name.endswith("linear_layers.1.weight"):
                assert max(known.abs().max(), found.abs().max()) <= 1e-3, name
    assert list(inspect.signature(original).parameters) == list(inspect.signature(nflows.MADE).parameters)[:-2]


def test_nflows_random_masks_are_autoregressive() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        made = randomized(nflows.MADE(D, H, use_residual_blocks=False, random_mask=True)).double().eval()
        jacobian = torch.autograd.functional.jacobian(lambda x, made=made: made(x[None])[0], torch.randn(D).double())
        assert torch.equal(jacobian.triu(), torch.zeros(D, D).double())


def test_the_first_variable_of_nflows_does_not_see_the_context() -> None:
    made = randomized(nflows.MADE(D, H, context_features=C))
    x = torch.randn(1, D)
    assert torch.equal(made(x, torch.ones(1, C))[0, 0], made(x, -torch.ones(1, C))[0, 0])


def known_stack(params: int, natural: bool, masks: int = 1) -> tuple[Stack, Any]:
    """A module of the well-known structure, with other masks than ours makes, and ours with its state dict."""
    torch.manual_seed(1)
    theirs = randomized(Stack(D, [H, 30], params=params, natural=natural, masks=masks)).double().eval()
    output = "normal" if params == 2 else None
    ours = pytorch_made.MADE(D, [H, 30], params * D, natural_ordering=natural, num_masks=masks, output=output).double()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("params", [1, 2])
@pytest.mark.parametrize("natural", [True, False])
def test_checkpoints_of_the_well_known_structure_give_the_same_function(params: int, natural: bool) -> None:
    theirs, ours = known_stack(params, natural)
    x = torch.randn(8, D).double()
    assert torch.equal(ours(x), theirs(x))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    drawn, log_prob = ours.sample_and_log_prob(50, seed=0)
    torch.testing.assert_close(ours.log_prob(drawn), log_prob, rtol=1e-9, atol=1e-9)
    if params == 1:
        logits = theirs(drawn)
        direct = -nn.functional.binary_cross_entropy_with_logits(logits, drawn, reduction="none").sum(1)
        torch.testing.assert_close(log_prob, direct, rtol=1e-9, atol=1e-9)


def test_probabilities_sum_to_one() -> None:
    _, ours = known_stack(1, natural=False)
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=D))).double()
    assert abs(ours.log_prob(every).logsumexp(0).item()) < 1e-12


def test_new_masks_are_drawn_as_the_original_does_and_noticed() -> None:
    torch.manual_seed(0)
    made = randomized(pytorch_made.MADE(D, [H, H], D, num_masks=3)).double()
    orders, masks = [], []
    for seed in (0, 1, 2, 0):
        generator = np.random.RandomState(seed)
        assert np.array_equal(made.m[-1], generator.permutation(D))
        assert np.array_equal(made.m[0], generator.randint(0, D - 1, size=H))
        assert made.seed == (seed + 1) % 3
        drawn = made.sample(40, seed=5)
        assert torch.equal(drawn, copy.deepcopy(made).sample(40, seed=5))
        orders.append(tuple(made.sampler().order.tolist()))
        masks.append([layer.mask.clone() for layer in made.net[::2]])
        jacobian = torch.autograd.functional.jacobian(lambda x: made(x[None])[0], torch.randn(D).double())
        rank = torch.from_numpy(made.m[-1])
        assert not bool(((jacobian != 0) & (rank[None, :] >= rank[:, None])).any())
        made.update_masks()
    assert len(set(orders)) == 3 and orders[0] == orders[3]
    assert all(map(torch.equal, masks[0], masks[3]))
    single = pytorch_made.MADE(D, [H], D)
    before = single.net[0].mask.clone()
    single.update_masks()
    assert torch.equal(before, single.net[0].mask)


def test_the_kept_sampler_follows_the_weights_and_is_no_part_of_copies() -> None:
    _, made = known_stack(1, natural=True)
    first = made.sample(30, seed=0)
    assert made.sampler() is made.sampler() and not made.sampler().is_stale
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(twin.sample(30, seed=0), first)
        assert twin.sampler().module is twin
    with torch.no_grad():
        made.net[-1].weight.mul_(-2)
    assert torch.equal(made.sample(30, seed=0), copy.deepcopy(made).sample(30, seed=0))
    assert not torch.equal(made.sample(30, seed=0), first)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nflows.MADE(D, H, random_mask=True), "random_mask must be False"),
        (lambda: nflows.MADE(0, H), "features must be an integer, 1 or more"),
        (lambda: nflows.MADE(D, H, variant="other"), "variant must be one of transforms, nde"),
        (lambda: nflows.MADE(D, H, output="normal"), "output must take 1 parameters"),
        (lambda: nflows.MADE(D, H, output_multiplier=2).eval().sample(1), "output must be given"),
        (lambda: nflows.MADE(D, H, dropout_probability=0.5).sample(1), "must be in evaluation mode"),
        (lambda: nflows.MADE(D, H)(torch.zeros(1, D), torch.zeros(1, C)), "context must be None"),
        (lambda: nflows.MADE(D, H, C)(torch.zeros(1, D)), r"context must be \(B, 3\)"),
        (lambda: nflows.MADE(D, H).log_prob(torch.zeros(1, D + 1)), r"x must have shape \(B, 6\)"),
        (lambda: nflows.MADE(D, H).log_prob(torch.full((1, D), 0.5)), "x must be"),
        (lambda: pytorch_made.MADE(D, [H], D + 1), "nout must be a multiple of nin=6"),
        (lambda: pytorch_made.MADE(1, [H], 1), "nin must be an integer, 2 or more"),
        (lambda: pytorch_made.MADE(D, [H], D, num_masks=0), "num_masks must be an integer, 1 or more"),
        (lambda: pytorch_made.MADE(D, [H], 2 * D).sample(1), "output must be given"),
        (lambda: pytorch_made.MADE(D, [H], D).log_prob(torch.zeros(1, D), torch.zeros(1, C)), "context must be None"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
