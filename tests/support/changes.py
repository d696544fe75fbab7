"""The table of ways in which a model can change."""

import copy
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn


def _loss(module: nn.Module) -> Tensor:
    return torch.stack([parameter.sin().sum() for parameter in module.parameters()]).sum()


def _steps(module: nn.Module, kind: Callable[..., torch.optim.Optimizer], number: int = 1, **options: Any) -> None:
    optimizer = kind(module.parameters(), **{"lr": 0.5, **options})

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = _loss(module)
        found.backward()
        return found

    for _ in range(number):
        optimizer.step(loss)


def _in_a_thread(module: nn.Module) -> None:
    thread = threading.Thread(target=_steps, args=(module, torch.optim.SGD))
    thread.start()
    thread.join()


def _layer(module: nn.Module) -> Any:
    """The last layer with a weight and a bias."""
    return [each for each in module.modules() if isinstance(getattr(each, "bias", None), Tensor)][-1]


def _in_place(module: nn.Module) -> None:
    with torch.no_grad():
        _layer(module).weight.mul_(-1)


def _behind_autograd(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.mul_(-1)


def _new_data(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = -parameter.data


def _new_parameter(module: nn.Module) -> None:
    layer = _layer(module)
    layer.bias = nn.Parameter(-layer.bias.detach() - 1)


def _one_weight(module: nn.Module) -> None:
    _layer(module).bias.data[-1] += 3


def _through_numpy(module: nn.Module) -> None:
    _layer(module).bias.detach().numpy()[::2] -= 3


def _load(module: nn.Module, assign: bool = False) -> None:
    weights = dict(module.named_parameters())  # masks may be floating point too
    state = {name: -value if name in weights else value for name, value in module.state_dict().items()}
    module.load_state_dict(state, assign=assign)


def _averaged(module: nn.Module) -> None:
    weights = list(module.parameters())
    with torch.no_grad():
        get_ema_multi_avg_fn(0.5)(weights, [1 - 2 * weight for weight in weights], 1)


def _swapped(module: nn.Module) -> None:
    layer = _layer(module)
    torch.utils.swap_tensors(layer.bias, nn.Parameter(1 - layer.bias.detach()))


def _rounded(module: nn.Module) -> None:
    """To another precision and back."""
    module.to(torch.bfloat16).to(torch.float64)
    with torch.no_grad():  # of a second time nothing is left to be rounded
        _layer(module).bias[::2].add_(2)


def _new_module(module: nn.Module) -> None:
    """Another layer in the place of the last one."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if child is _layer(module):
                other = copy.deepcopy(child)
                with torch.no_grad():
                    other.bias.sub_(1).mul_(-1)
                setattr(parent, name, other)
                return


def _parametrized(make: Callable[[nn.Module], Any]) -> Callable[[nn.Module], None]:
    """The last weight of another making, then other numbers of which it is made."""

    def change(module: nn.Module) -> None:
        layer = _layer(module.eval())  # a spectral norm goes on with its iteration in training mode
        if not parametrize.is_parametrized(layer):
            make(layer)
        with torch.no_grad():
            for parameter in layer.parametrizations.parameters():
                parameter.copy_(torch.randn_like(parameter))

    return change


class _LowRank(nn.Module):
    """A weight and a product of two thin matrices, as LoRA has it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.ones_like(weight[:2]))
        self.up = nn.Parameter(torch.ones_like(weight[:, :2]))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


class _Scaled(nn.Module):
    """A number that is neither parameter nor buffer."""

    scale = 1.0

    def forward(self, weight: Tensor) -> Tensor:
        return self.scale * weight


def _scaled(module: nn.Module) -> None:
    layer = _layer(module)
    if not parametrize.is_parametrized(layer):
        parametrize.register_parametrization(layer, "bias", _Scaled())
    layer.parametrizations.bias[0].scale *= -2.0


def _hooked(make: Callable[[nn.Module], Any], suffix: str) -> Callable[[nn.Module], None]:
    """The last weight made by a hook before each forward pass, then other numbers of which it is made."""

    def change(module: nn.Module) -> None:
        layer = _layer(module.eval())
        if not layer._forward_pre_hooks:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                make(layer)
        with torch.no_grad():
            weight = getattr(layer, f"weight_{suffix}")
            weight.copy_(torch.randn_like(weight))

    return change


def _own_hook(layer: nn.Module) -> None:
    """What somebody has written himself: a weight that is the square of a parameter."""
    root = nn.Parameter(layer.weight.detach().abs().sqrt())
    del layer._parameters["weight"]
    layer.register_parameter("weight_root", root)

    def hook(module: Any, arguments: Any) -> None:
        module.weight = module.weight_root**2

    layer.register_forward_pre_hook(hook)
    hook(layer, ())


def _pruned(module: nn.Module) -> None:
    prune.random_unstructured(_layer(module), "bias", amount=2)
    with torch.no_grad():
        _layer(module).bias_orig[::2].sub_(2)


def _pruned_by_size(module: nn.Module) -> None:
    layer = _layer(module)
    prune.l1_unstructured(layer, "weight", amount=0.3)
    with torch.no_grad():
        layer.weight_orig.mul_(-1)


def _pruned_anew(module: nn.Module) -> None:
    """By a mask of one's own, which is then turned round where it lies."""
    layer = _layer(module)
    if not hasattr(layer, "bias_mask"):
        prune.custom_from_mask(layer, "bias", torch.arange(len(layer.bias)) % 2 == 0)
        with torch.no_grad():
            layer.bias_orig.sub_(1)
    layer.bias_mask.copy_(1 - layer.bias_mask)


def _pruned_for_good(module: nn.Module) -> None:
    _pruned(module)
    prune.remove(_layer(module), "bias")


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "sgd": lambda module: _steps(module, torch.optim.SGD),
    "sgd, all at once": lambda module: _steps(module, torch.optim.SGD, foreach=True),
    "adam": lambda module: _steps(module, torch.optim.Adam, 3),
    "adam, all at once": lambda module: _steps(module, torch.optim.Adam, foreach=True),
    "adam, fused": lambda module: _steps(module, torch.optim.Adam, fused=True),
    "lbfgs": lambda module: _steps(module, torch.optim.LBFGS, max_iter=2, lr=5.0),
    "in a thread": _in_a_thread,
    "in place": _in_place,
    "behind autograd": _behind_autograd,
    "new data": _new_data,
    "new parameter": _new_parameter,
    "new module": _new_module,
    "swapped tensors": _swapped,
    "one weight": _one_weight,
    "through numpy": _through_numpy,
    "state dict": _load,
    "assigned state dict": lambda module: _load(module, assign=True),
    "averaged": _averaged,
    "rounded": _rounded,
    "weight norm": _parametrized(weight_norm),
    "spectral norm": _parametrized(spectral_norm),
    "orthogonal": _parametrized(lambda layer: orthogonal(layer, orthogonal_map="matrix_exp")),
    "low rank": _parametrized(
        lambda layer: parametrize.register_parametrization(layer, "weight", _LowRank(layer.weight))
    ),
    "plain number": _scaled,
    "hooked weight norm": _hooked(hooked_weight_norm, "g"),
    "hooked spectral norm": _hooked(hooked_spectral_norm, "orig"),
    "hook of one's own": _hooked(_own_hook, "root"),
    "pruned": _pruned,
    "pruned by size": _pruned_by_size,
    "pruned anew": _pruned_anew,
    "pruned for good": _pruned_for_good,
}
