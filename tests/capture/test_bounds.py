"""Probabilities are not taken for logits, nor scales for raw ones: a last function that bounds them is seen."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from made_fast import accelerate, cli, outputs
from made_fast.capture.captured import CaptureError

D = 4


class Net(nn.Module):
    """Parameters (B, D, K) of a masked net with a hidden layer, and what ``end`` makes of them."""

    def __init__(self, params: int, end: Callable[[Tensor], Tensor], hidden: Any = torch.relu) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        rank, degrees = torch.arange(D), torch.arange(9) % D
        first = (degrees[:, None] >= rank + 1).float() * torch.randn(9, D, generator=generator)
        second = (rank[:, None] >= degrees).float().repeat_interleave(params, 0)
        self.first, self.second = (
            nn.Parameter(first),
            nn.Parameter(second * torch.randn(second.shape, generator=generator)),
        )
        self.bias = nn.Parameter(torch.randn(D * params, generator=generator))
        self.params, self.end, self.hidden = params, end, hidden

    def forward(self, x: Tensor) -> Tensor:
        raw = F.linear(self.hidden(F.linear(x, self.first)), self.second, self.bias)
        return self.end(raw.unflatten(-1, (D, self.params)))


def _of_scale(end: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The end of every second parameter."""
    return lambda raw: torch.stack([raw[..., 0], end(raw[..., 1])], -1)


def _of_mixture(weights: Callable[[Tensor], Tensor], scales: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda raw: torch.cat([weights(raw[..., :2]), raw[..., 2:4], scales(raw[..., 4:])], -1)


def _same(raw: Tensor) -> Tensor:
    return raw


SQUASHED: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "sigmoid by hand": lambda raw: 1 / (1 + torch.exp(-raw)),
    "sigmoid by tanh": lambda raw: 0.5 * (torch.tanh(raw / 2) + 1),
    "sigmoid in a clamp": lambda raw: torch.sigmoid(raw).clamp(1e-6, 1 - 1e-6),
    "smoothed sigmoid": lambda raw: 0.98 * torch.sigmoid(raw) + 0.01,
    "1 - sigmoid": lambda raw: 1 - torch.sigmoid(raw),
    "clamp": lambda raw: raw.clamp(0, 1),
    "hard sigmoid": F.hardsigmoid,
}
REFUSED: dict[str, tuple[Any, Callable[[Tensor], Tensor], str]] = {
    **{f"bernoulli: {name}": ("bernoulli", end, "probabilities, in 0") for name, end in SQUASHED.items()},
    **{f"categorical: {name}": (outputs.Categorical(3), end, "probabilities, in 0") for name, end in SQUASHED.items()},
    "spin: sigmoid": ("spin", torch.sigmoid, "probabilities, in 0"),
    "spin: tanh": ("spin", torch.tanh, "means of spins"),
    "bernoulli: hard tanh": ("bernoulli", F.hardtanh, "means of spins"),
    "bernoulli: exp": ("bernoulli", torch.exp, "odds"),
    "bernoulli: softplus": ("bernoulli", F.softplus, "odds"),
    "bernoulli: log of a sigmoid": ("bernoulli", F.logsigmoid, "logarithms of probabilities"),
    "categorical: exp": (outputs.Categorical(3), torch.exp, "weights, above 0"),
    "categorical: softmax": (outputs.Categorical(3), lambda raw: raw.softmax(-1), "softmax makes probabilities"),
    "categorical: softmax by hand": (
        outputs.Categorical(3),
        lambda raw: raw.exp() / raw.exp().sum(-1, keepdim=True),
        "weights, above 0|probabilities",
    ),
    "categorical: log softmax": (outputs.Categorical(3), lambda raw: raw.log_softmax(-1), "leave it out"),
    "normal: exp": ("normal", _of_scale(torch.exp), "scales, above 0"),
    "normal: softplus": ("normal", _of_scale(lambda raw: F.softplus(raw) + 1e-3), "scales, above 0"),
    "normal: sigmoid": ("normal", _of_scale(torch.sigmoid), "scales, above 0"),
    "normal: relu": ("normal", _of_scale(lambda raw: torch.relu(raw) + 1e-3), "scales, above 0"),
    "normal: clamped exp": ("normal", _of_scale(lambda raw: torch.exp(raw).clamp(min=1e-3)), "scales, above 0"),
    "mixture: weights": (outputs.MixtureOfNormals(2), _of_mixture(torch.sigmoid, _same), "probabilities, in 0"),
    "mixture: scales": (outputs.MixtureOfNormals(2), _of_mixture(_same, torch.exp), "scales, above 0"),
    "levels: scales": (outputs.MixtureOfLogistics(2, 8), _of_mixture(_same, F.softplus), "scales, above 0"),
    "mixed: the bits alone": (
        outputs.Mixed(["bernoulli", "spin", "bernoulli", "bernoulli"]),
        torch.sigmoid,
        "probabilities, in 0",
    ),
}
TAKEN: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "bernoulli": ("bernoulli", _same),
    "bernoulli: relu": ("bernoulli", torch.relu),
    "bernoulli: wide clamp": ("bernoulli", lambda raw: raw.clamp(-30, 30)),
    "bernoulli: wide tanh": ("bernoulli", lambda raw: 10 * torch.tanh(raw)),
    "bernoulli: logit of a sigmoid": ("bernoulli", lambda raw: torch.logit(torch.sigmoid(raw))),
    "bernoulli: small weights": ("bernoulli", lambda raw: 0.01 * raw),
    "categorical": (outputs.Categorical(3), _same),
    "categorical: tanh": (outputs.Categorical(3), torch.tanh),
    "categorical: log of a sigmoid": (outputs.Categorical(3), F.logsigmoid),
    "normal": ("normal", _same),
    "normal: location in 0 .. 1": ("normal", lambda raw: torch.stack([torch.sigmoid(raw[..., 0]), raw[..., 1]], -1)),
    "normal: logarithm of a softplus": ("normal", _of_scale(lambda raw: -F.softplus(raw))),
    "mixture": (outputs.MixtureOfNormals(2), _same),
}


def _made(output: Any, end: Callable[[Tensor], Tensor], **options: Any) -> tuple[nn.Module, Any]:
    found = outputs.make_output(output) if isinstance(output, str) else output
    module = Net(found.conditionals(D)[0].num_params, end, **options).eval()
    return module, found


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_bounded_is_refused(case: str) -> None:
    output, end, words = REFUSED[case]
    module, found = _made(output, end)
    one_hot = {"layout": "variable-major"} if "categorical" in case else {}
    with pytest.raises(CaptureError, match=words) as error:
        accelerate(module, features=D, output=found, **one_hot)
    assert "leave " in str(error.value)


@pytest.mark.parametrize("hidden", [torch.relu, torch.tanh, torch.sigmoid])
@pytest.mark.parametrize("case", TAKEN)
def test_what_is_not_bounded_is_taken(case: str, hidden: Any) -> None:
    output, end = TAKEN[case]
    module, found = _made(output, end, hidden=hidden)
    sampler = accelerate(module, features=D, output=found, layout="variable-major")
    assert sampler.sample(5, seed=0).shape == (5, D)


def test_who_says_so_gets_them_as_they_are() -> None:
    module, _ = _made("bernoulli", torch.sigmoid)
    sampler = accelerate(module, features=D, bounded=True)
    x, log_prob = sampler.sample_and_log_prob(50, seed=0)
    expected = -F.binary_cross_entropy_with_logits(module(x)[..., 0], x, reduction="none").sum(1)
    torch.testing.assert_close(log_prob, expected)
    for value in ("yes", None, 2):
        with pytest.raises(ValueError, match=r"^bounded must be True or False"):
            accelerate(module, features=D, bounded=value)  # type: ignore[arg-type]


def test_the_remedy_of_the_message_draws_the_probabilities() -> None:
    module, _ = _made("bernoulli", torch.sigmoid)
    sampler = accelerate(module, features=D, call=lambda module, x, context: torch.logit(module(x)))
    x, log_prob = sampler.sample_and_log_prob(20_000, seed=0)
    p = module(x)[..., 0]
    torch.testing.assert_close(log_prob, torch.where(x == 1, p, 1 - p).log().sum(1))
    assert (x[:, 0].mean() - p[0, 0]).abs() < 0.02


def test_a_refreshed_module_is_looked_at_again() -> None:
    module, _ = _made("bernoulli", _same)
    sampler = accelerate(module, features=D)
    module.end = torch.sigmoid
    with pytest.raises(CaptureError, match="probabilities, in 0"):
        sampler.sample(5)


@pytest.mark.parametrize(("end", "status"), [("torch.sigmoid", 1), ("torch.relu", 0), ("torch.exp", 1)])
def test_doctor_says_the_same(end: str, status: int, tmp_path: Any, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "bounded_modules.py").write_text(
        f"""
import torch
from torch import nn

class Bounded{status}(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mask", torch.ones(4, 4).tril(-1))

    def forward(self, x):
        return {end}(nn.functional.linear(x, self.linear.weight * self.mask, self.linear.bias))

net = Bounded{status}()
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "bounded_modules", raising=False)
    found = cli.main(["doctor", "bounded_modules:net"])
    out, err = capsys.readouterr()
    assert found == status, (out, err)
    if status:
        assert err.startswith("made-fast: error: module must return parameters of its output") and err.count("\n") == 1
