"""Log-probabilities made some variables at a time: the same values and derivatives, and never all parameters at once."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from made_fast import MADE
from made_fast.models import network
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.kinds import Mixed
from made_fast.outputs.mixtures import MixtureOfLogistics
from made_fast.outputs.output import Output

D, B = 5, 6
OUTPUTS: dict[str, Output] = {
    "bernoulli": Mixed([("bernoulli", D)]),
    "categorical": Categorical((3, 2, 4, 1, 5)),
    "mixed": Mixed(
        ["normal", Categorical(4), Categorical(3, embedding=2), MixtureOfLogistics(1, levels=5), "bernoulli"]
    ),
}
STACKS: dict[str, dict[str, Any]] = {
    "plain": {"hidden_features": (7, 6)},
    "direct": {"hidden_features": (7,), "direct": True, "order": "random"},
    "residual": {"hidden_features": (6, 6), "residual": True},
    "context": {"hidden_features": (6,), "direct": True, "context_features": 2},
    "belief_network": {"hidden_features": (), "direct": True},
    "biases": {"hidden_features": ()},
    "ensemble": {"hidden_features": (7,), "num_masks": 3, "mask_conditioning": True, "direct": True},
}
every_output = pytest.mark.parametrize("output", OUTPUTS)
every_stack = pytest.mark.parametrize("stack", STACKS)


def _case(output: str, stack: str) -> tuple[MADE, Tensor, Tensor | None]:
    """A model in fp64, rows that it can take, and a context."""
    torch.manual_seed(2)
    model = MADE(D, output=OUTPUTS[output], activation="tanh", **STACKS[stack]).double()
    x = model.sample(B, torch.zeros(1, 2).double() if model.context_features else None, seed=1).reshape(B, D)
    return model, x, torch.randn(B, 2).double() if model.context_features else None


def _in_parts(monkeypatch: pytest.MonkeyPatch, at_once: int = 1) -> list[int]:
    """From now on models make parameters in parts; returns a list that grows by the first variable of each part."""
    monkeypatch.setattr(network, "_TOO_MANY", 0)
    monkeypatch.setattr(network, "_AT_ONCE", at_once)
    firsts: list[int] = []
    plain = network.MaskedNetwork._log_prob_of_part

    def counted(*arguments: Any) -> Tensor:
        firsts.append(arguments[-2])
        return plain(*arguments)

    monkeypatch.setattr(network.MaskedNetwork, "_log_prob_of_part", counted)
    return firsts


@every_stack
@every_output
def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch, output: str, stack: str) -> None:
    """Values, gradients, and the gradient of a norm of gradients."""
    model, x, context = _case(output, stack)
    leaves = list(model.parameters())

    def derivatives() -> list[Tensor]:
        value = model.log_prob(x, context)
        first = torch.autograd.grad(value.sum(), leaves, create_graph=True, materialize_grads=True)
        norm = sum((each**2).sum() for each in first)
        assert isinstance(norm, Tensor)
        second = torch.autograd.grad(norm, leaves, materialize_grads=True, allow_unused=True)
        return [value.detach(), *(each.detach() for each in first), *second]

    whole = derivatives()
    for at_once, parts in ((1, D), (10**9, 1)):
        with monkeypatch.context() as patched:
            firsts = _in_parts(patched, at_once)
            found = derivatives()
        assert len(set(firsts)) == parts
        assert len(firsts) > parts, "a backward pass must make them again"
        for one, other in zip(found, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_any_shape_of_rows(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    model, _, _ = _case("mixed", "context")
    context = torch.randn(*shape[1:], 2).double()
    x = model.output.mode(torch.zeros(*shape, sum(model.params_per_variable)).double(), D)
    expected = model.log_prob(x, context)
    _in_parts(monkeypatch)
    torch.testing.assert_close(model.log_prob(x, context), expected)


class Memory(TorchDispatchMode):
    """Bytes of tensors that were made within it and are alive, at most and now."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = self.held = 0

    @property
    def now(self) -> int:
        self.alive = {key: each for key, each in self.alive.items() if not each[0].expired()}
        return sum(size for _, size in self.alive.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, self.now)
        return made


def test_all_parameters_are_never_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward together stay below one tensor of (B, P); without parts they hold several."""
    rows, features, size = 512, 10, 200
    model = MADE(features, (16,), output=Categorical(size))
    x = torch.randint(size, (rows, features)).float()
    params = rows * features * size * 4  # bytes of (B, P) in fp32

    def step() -> Memory:
        model.zero_grad()
        with Memory() as memory:
            loss = -model.log_prob(x).mean()
            memory.held = memory.now  # for the backward pass
            loss.backward()
        return memory

    whole = step()
    assert whole.held > params and whole.peak > 2 * params
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    _in_parts(monkeypatch, rows * size)
    parts = step()
    assert parts.peak < 0.8 * params
    assert parts.held < 0.2 * params
    for one, other in zip(gradients, model.parameters(), strict=True):
        assert other.grad is not None
        torch.testing.assert_close(one, other.grad)


def test_parts_begin_where_a_batch_has_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, context = _case("categorical", "plain")
    count = sum(model.params_per_variable)
    firsts = _in_parts(monkeypatch)
    monkeypatch.setattr(network, "_TOO_MANY", B * count)
    model.log_prob(x, context)
    assert firsts == []
    monkeypatch.setattr(network, "_TOO_MANY", B * count - 1)
    model.log_prob(x, context)
    assert firsts == list(range(D))
