"""Training masked layers with torch's own tools: optimizers, parametrizations, copies, several processes."""

import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, weight_norm

from made_fast import MADE, MaskedLinear

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1, foreach=True),
    "sgd_fused": lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.9, weight_decay=0.1, fused=True),
    "adamw": lambda weights: torch.optim.AdamW(weights, 0.01, weight_decay=0.3, foreach=False),
    "adamw_foreach": lambda weights: torch.optim.AdamW(weights, 0.01, weight_decay=0.3, amsgrad=True, foreach=True),
    "adamw_fused": lambda weights: torch.optim.AdamW(weights, 0.01, weight_decay=0.3, fused=True),
    "adagrad": lambda weights: torch.optim.Adagrad(weights, 0.05, weight_decay=0.1, foreach=True),
    "adagrad_fused": lambda weights: torch.optim.Adagrad(weights, 0.05, weight_decay=0.1, fused=True),
    "lbfgs": lambda weights: torch.optim.LBFGS(weights, 0.1, max_iter=4, line_search_fn="strong_wolfe"),
}


def _binary(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape).float()


def _layers(model: nn.Module) -> list[MaskedLinear]:
    return [layer for layer in model.modules() if isinstance(layer, MaskedLinear)]


def _train(model: MADE, x: Tensor, optimizer: torch.optim.Optimizer, steps: int = 6) -> None:
    def loss() -> float:
        optimizer.zero_grad()
        value = -model.log_prob(x).mean()
        value.backward()
        return value.item()

    for _ in range(steps):
        optimizer.step(loss)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("width", [16, 256])
def test_optimizers_never_let_masked_weights_in(name: str, width: int) -> None:
    model, x = MADE(9, (width, width), order="random", direct=True), _binary(64, 9)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for layer in _layers(other):
            layer.weight.masked_fill_(~layer.mask, 0.0 if name == "lbfgs" else 1e4)
    for each in (model, other):
        _train(each, x, OPTIMIZERS[name](each.parameters()))
    assert torch.equal(model.log_prob(x), other.log_prob(x))
    for one, two in zip(_layers(model), _layers(other), strict=True):
        assert torch.equal(one.weight[one.mask], two.weight[one.mask])
        assert one.weight.grad is not None
        assert (one.weight.grad[~one.mask] == 0).all()
        with torch.no_grad():
            one.weight.masked_fill_(~one.mask, torch.nan)
    assert torch.equal(model.log_prob(x), other.log_prob(x))
    model.check()


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / 2


@pytest.mark.parametrize("how", ["weight_norm", "orthogonal", "own"])
def test_parametrized_weights(how: str) -> None:
    model, x = MADE(9, (16, 16)).double(), _binary(32, 9).double()
    before = model.log_prob(x)
    for layer in _layers(model):
        if how == "own":
            parametrize.register_parametrization(layer, "weight", _Doubled())
        else:
            (weight_norm if how == "weight_norm" else orthogonal)(layer)
    if how != "orthogonal":
        torch.testing.assert_close(model.log_prob(x), before)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    losses = []
    for _ in range(5):
        loss = -model.log_prob(x).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    jacobian = torch.autograd.functional.jacobian(model, x[0])
    assert (jacobian.triu() == 0).all()
    expected = model.log_prob(x)
    with parametrize.cached():
        torch.testing.assert_close(model.log_prob(x), expected)
    for layer in _layers(model):
        parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(model.log_prob(x), expected)


def _pickled(model: MADE) -> MADE:
    return pickle.loads(pickle.dumps(model))  # type: ignore[no-any-return]


def _saved(model: MADE) -> MADE:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, _pickled, _saved])
@pytest.mark.parametrize("width", [16, 256])
def test_copies_train_apart_and_alike(copied: Callable[[MADE], MADE], width: int) -> None:
    model, x = MADE(9, (width, width)), _binary(64, 9)
    model.log_prob(x).sum().backward()  # what a first call keeps must not be in the way
    model.zero_grad()
    other = copied(model)
    assert torch.equal(other.log_prob(x), model.log_prob(x))
    if copied is copy.copy:
        return
    before = model.log_prob(x)
    _train(other, x, OPTIMIZERS["adamw"](other.parameters()))
    assert torch.equal(model.log_prob(x), before)
    _train(model, x, OPTIMIZERS["adamw"](model.parameters()))
    assert torch.equal(model.log_prob(x), other.log_prob(x))
    _layers(other)[1].mask.zero_()
    assert not torch.equal(_layers(model)[1].mask, _layers(other)[1].mask)
    assert not torch.equal(model.log_prob(x), other.log_prob(x))


PROCESSES = """
import os, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from made_fast import MADE
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.manual_seed(rank)
model = MADE(9, (32, 32), order="random", seed=rank, direct=True).double()  # the second one's are to be replaced
x = torch.load(folder + "/x.pt")
if rank == 0:
    torch.save(model, folder + "/start.pt")
model.log_prob(x)
dist.init_process_group("gloo", init_method="file://" + folder + "/store", rank=rank, world_size=2)
parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
optimizer = torch.optim.AdamW(parallel.parameters(), 0.01, weight_decay=0.1)
for _ in range(5):
    optimizer.zero_grad()
    model.output.log_prob(parallel(x[rank::2]), x[rank::2]).sum(-1).mean().neg().backward()
    optimizer.step()
torch.save(model, folder + f"/end{rank}.pt")
dist.barrier()
os._exit(0)  # without taking gloo apart: now and then that ends in "terminate called without an active exception"
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    x = _binary(64, 9).double()
    torch.save(x, tmp_path / "x.pt")
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command, pipe = [sys.executable, "-P", "-c", PROCESSES], subprocess.PIPE
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=pipe, text=True, env=environment)
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    model, *trained = (torch.load(tmp_path / f"{name}.pt", weights_only=False) for name in ("start", "end0", "end1"))
    _train(model, x, torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1), 5)
    for other in trained:
        state: dict[str, Any] = other.state_dict()
        torch.testing.assert_close(state, dict(model.state_dict()))
        torch.testing.assert_close(other.log_prob(x), model.log_prob(x))
