"""Law 11 for orders, masks and degrees: averages and casts do no harm, and nothing that is no structure can be loaded."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import context_of, made, valid
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from made_fast import MADE
from made_fast.flows.maf import MaskedAutoregressiveFlow
from made_fast.outputs.categorical import Categorical
from made_fast.programs.program import Program
from made_fast.programs.schedule import build_schedule
from made_fast.testing import naive_sample


def _ema(decay: float, *, rounds: int = 3) -> Callable[[MADE], MADE]:
    def average(model: MADE) -> MADE:
        averaged = AveragedModel(model, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(decay))
        for _ in range(rounds):
            averaged.update_parameters(model)
        return averaged.module  # type: ignore[no-any-return]

    return average


def _by_state_dicts(model: MADE) -> MADE:
    """As several libraries have it: all values of both state dicts."""
    averaged = copy.deepcopy(model)
    for ours, theirs in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        ours.copy_(0.9 * ours + 0.1 * theirs)
    return averaged


def _mean_of_checkpoints(model: MADE) -> MADE:
    """Loads the mean of two equal state dicts, which is of floats."""
    state, averaged = model.state_dict(), copy.deepcopy(model)
    averaged.load_state_dict({name: (value + value) / 2.0 for name, value in state.items()})
    return averaged


def _assigned_mean(model: MADE) -> MADE:
    state, averaged = model.state_dict(), copy.deepcopy(model)
    averaged.load_state_dict({name: (value + value) / 2.0 for name, value in state.items()}, assign=True)
    return averaged


def _in_slices(model: MADE) -> MADE:
    return _ema(0.9)(pickle.loads(pickle.dumps(model)))


AVERAGES: dict[str, Callable[[MADE], MADE]] = {
    "ema 0.9": _ema(0.9),
    "ema 0.99": _ema(0.99),
    "ema 0.9999, often": _ema(0.9999, rounds=30),
    "mean": lambda model: _ema(0.5)(_ema(0.9)(model)),
    "state dicts": _by_state_dicts,
    "checkpoints": _mean_of_checkpoints,
    "assigned checkpoints": _assigned_mean,
    "all to fp64": lambda model: copy.deepcopy(model).type(torch.float64),
    "all to bf16": lambda model: copy.deepcopy(model).type(torch.bfloat16).type(torch.float64),
    "read from a pickle": _in_slices,
}
KINDS = {
    "bernoulli-random": lambda: made("bernoulli", "random", features=9),
    "wide": lambda: MADE(300, (20,), order="random").double(),
    "ragged-context": lambda: made("ragged", "context"),
    "embedding-random": lambda: made("embedding", "random"),
    "mixed-residual": lambda: made("mixed", "residual"),
    "bernoulli-both": lambda: made("bernoulli", "both", features=9),
    "bernoulli-connectivity": lambda: made("bernoulli", "connectivity", features=9),
    "bernoulli-endless": lambda: made("bernoulli", "endless", features=9),
    "mixed_finite-orders": lambda: made("mixed_finite", "orders"),
}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_averages_of_a_model_and_itself_are_that_model(kind: str, average: str) -> None:
    model = KINDS[kind]().eval()
    whole = {name: tensor.clone() for name, tensor in model.named_buffers()}
    context = context_of(model, 1)
    x = (
        torch.randint(0, 2, (5, 300)).double()
        if kind == "wide"
        else valid(kind.split("-", maxsplit=1)[0], 5, features=model.features)
    )
    for first in ("sample", "log_prob"):
        averaged = AVERAGES[average](model).eval()
        if first == "sample":
            averaged.sample(1, context, seed=0)
        else:
            averaged.log_prob(x, context)
        for name, tensor in averaged.named_buffers():
            assert tensor.dtype == whole[name].dtype, name
            assert torch.equal(tensor, whole[name]), name
        with torch.no_grad():
            for ours, theirs in zip(averaged.parameters(), model.parameters(), strict=True):
                ours.copy_(theirs)
        torch.testing.assert_close(averaged.log_prob(x, context), model.log_prob(x, context))
        assert torch.equal(averaged.sample(30, context, seed=1), model.sample(30, context, seed=1))


def test_flows_are_averaged_too() -> None:
    flow = MaskedAutoregressiveFlow(5, 2, (12,), order="random").double()
    averaged = AveragedModel(flow, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        averaged.update_parameters(flow)
    x, log_prob = averaged.module.sample_and_log_prob(7, seed=0)
    torch.testing.assert_close(x, flow.sample(7, seed=0))
    torch.testing.assert_close(log_prob, flow.log_prob(x))


def _changed(state: dict[str, Tensor], name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {**state, name: change(state[name])}


BROKEN: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "order_twice": ("order", lambda t: t.clamp(max=5), r"order must be a permutation of 0 \.\. 8, got \["),
    "order_out_of_range": ("order", lambda t: t + 1, "order must be a permutation"),
    "order_of_halves": ("order", lambda t: t + 0.5, "order must hold whole numbers"),
    "order_against_masks": ("order", lambda t: t.flip(0), "masks must follow the order, but variable . depends on"),
    "mask_leaks": ("direct_layer.mask", torch.ones_like, "direct_layer.mask must follow the order, but variable"),
    "mask_of_halves": ("hidden.0.mask", lambda t: 1 - t * 0.5, "hidden.0.mask must hold 0 and 1 alone"),
}
BROKEN_ENSEMBLES: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "orders_twice": ("ensemble.orders", lambda t: t.clamp(max=5), "ensemble.orders must be permutations"),
    "orders_of_halves": ("ensemble.orders", lambda t: t + 0.5, "ensemble.orders must hold whole numbers"),
    "degrees_too_high": (
        "ensemble.degrees_0",
        lambda t: t + 1,
        r"ensemble.degrees_0 must lie in 0 \.\. 8, got 2 \.\. 9",
    ),
    "degrees_negative": ("ensemble.degrees_0", lambda t: -t, "ensemble.degrees_0 must lie in"),
}
OPTIONS: dict[str, Any] = {"hidden_features": (24,), "order": "random", "direct": True}


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("broken", [*BROKEN, *BROKEN_ENSEMBLES])
def test_what_is_no_structure_is_not_loaded(broken: str, assign: bool) -> None:
    options = OPTIONS if broken in BROKEN else {**OPTIONS, "num_masks": 3}
    model, other = MADE(9, **options), MADE(9, **options)
    name, change, message = {**BROKEN, **BROKEN_ENSEMBLES}[broken]
    before = model.sample(20, seed=1)
    with pytest.raises(ValueError, match=message):
        nn.ModuleDict({"model": model}).load_state_dict(
            {f"model.{key}": t for key, t in _changed(other.state_dict(), name, change).items()}, assign=assign
        )
    assert torch.equal(model.sample(20, seed=1), before)  # nothing of it was loaded
    model.load_state_dict(other.state_dict(), assign=assign)
    assert torch.equal(model.sample(20, seed=1), other.sample(20, seed=1))


@pytest.mark.parametrize("broken", [each for each in (*BROKEN, *BROKEN_ENSEMBLES) if "halves" not in each])
@pytest.mark.parametrize("use", ["sample", "log_prob", "forward", "save"])
def test_what_is_written_in_place_is_noticed(broken: str, use: str, tmp_path: Any) -> None:
    options = OPTIONS if broken in BROKEN else {**OPTIONS, "num_masks": 3}
    model = MADE(9, **options)
    x = model.sample(3, seed=0)
    name, change, message = {**BROKEN, **BROKEN_ENSEMBLES}[broken]
    buffer = model.state_dict()[name]
    kept = buffer.clone()
    buffer.copy_(change(buffer))
    calls = {
        "sample": lambda: model.sample(1),
        "log_prob": lambda: model.log_prob(x),
        "forward": lambda: model(x),
        "save": lambda: model.save(tmp_path / "model"),
    }
    for _ in range(2):  # and again
        with pytest.raises(ValueError, match=message):
            calls[use]()
    buffer.copy_(kept)
    calls[use]()


@pytest.mark.parametrize("way", ["loaded", "assigned", "written"])
def test_another_structure_that_is_right_is_taken(way: str) -> None:
    """And is then what averages are put back to."""
    model, other = MADE(9, **OPTIONS).double(), MADE(9, **{**OPTIONS, "seed": 4}).double()
    assert not torch.equal(model.order, other.order)
    if way == "written":
        with torch.no_grad():
            for ours, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
                ours.copy_(theirs)
        model.log_prob(torch.zeros(1, 9).double())
    else:
        model.load_state_dict(other.state_dict(), assign=way == "assigned")
    averaged = _ema(0.9)(model)
    assert torch.equal(averaged.sample(40, seed=6), naive_sample(other, 40, seed=6))
    assert torch.equal(averaged.order, other.order)


def test_a_schedule_is_of_a_permutation() -> None:
    program = MADE(6, (8,)).program()
    for order in ([0, 1, 2, 2, 4, 5], [1, 2, 3, 4, 5, 6], [0] * 6):
        broken = Program(6, 0, program.ops, torch.tensor(order), program.params_per_variable, program.conditionals)
        with pytest.raises(ValueError, match=r"order must be a permutation of 0 \.\. 5, got "):
            build_schedule(broken)


def test_coins_stay_independent() -> None:
    model = MADE(6, (8,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    x = _ema(0.9)(model).sample(20_000, seed=0)
    assert float((torch.corrcoef(x.T) - torch.eye(6)).abs().max()) < 0.05


def test_probabilities_of_an_average_sum_to_one() -> None:
    model = _ema(0.9)(MADE(4, (32,), output=Categorical(3), num_masks=3)).eval()
    states = torch.cartesian_prod(*[torch.arange(3.0)] * 4)
    assert abs(float(model.log_prob(states).logsumexp(0))) < 1e-5
