"""Modules in several styles that are no library's, to be captured as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

D, H, C = 7, 19, 3


def degrees_mask(rows: Tensor, columns: Tensor) -> Tensor:
    return rows[:, None] >= columns[None, :]


class MaskedInForward(nn.Module):
    """Weights masked in forward by a comparison of degrees, parameters laid out parameter-major."""

    def __init__(self, params: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(D, H), nn.Linear(H, params * D)
        order = torch.randperm(D)
        self.register_buffer("rank", order.argsort())
        self.register_buffer("hidden", torch.arange(H) % D)
        self.params = params

    def forward(self, x: Tensor) -> Tensor:
        into = torch.where(self.hidden[:, None] > self.rank, self.first.weight, torch.zeros(()).to(x))
        out = self.second.weight * (self.rank[:, None] >= self.hidden).repeat(self.params, 1)
        h = torch.tanh(x @ into.t() + self.first.bias)
        return torch.addmm(self.second.bias, h, out.t())


class AttributeMasks(nn.Module):
    """Masks in a plain list of tensors and in a numpy array, PReLU for each unit, a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        hidden = torch.arange(H) % (D - 1)
        inputs = torch.arange(D)
        self.masks = [degrees_mask(hidden, inputs).float(), degrees_mask(hidden, hidden).float()]
        self.last_mask = (inputs[:, None] > hidden[None, :]).numpy().astype(np.float32)
        self.layers = nn.ModuleList([nn.Linear(D, H), nn.Linear(H, H), nn.Linear(H, D)])
        self.bend = nn.PReLU(H)
        self.direct = nn.Parameter(torch.randn(D, D))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for layer, mask in zip(self.layers[:2], self.masks, strict=True):
            h = self.bend(F.linear(h, layer.weight * mask, layer.bias))
        last = self.layers[2]
        weight = last.weight * torch.from_numpy(self.last_mask).to(last.weight)
        return F.linear(h, weight, last.bias) + torch.einsum("bi,ji->bj", x, self.direct.tril(-1))


class Triangles(nn.Module):
    """Blocks of lower triangles, one for each channel, residual and normalised; gates; parameters (B, D, 2)."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.into = nn.Parameter(torch.randn(channels, D, D) / 3)
        self.within = nn.Parameter(torch.randn(channels * D, channels * D) / 5)
        self.gate = nn.Parameter(torch.randn(channels * D, channels * D) / 5)
        self.out = nn.Parameter(torch.randn(2, channels, D, D) / 3)
        self.norm = nn.BatchNorm1d(channels * D)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            self.norm.weight.normal_()
            self.norm.bias.normal_()

    def square(self, weight: Tensor) -> Tensor:
        blocks = weight.reshape(self.channels, D, self.channels, D)
        return torch.tril(blocks.transpose(1, 2)).transpose(1, 2).reshape_as(weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.into[channel].tril(-1) for channel in range(self.channels)])
        h = x @ weight.T  # (B, channels * D)
        h += F.linear(F.silu(self.norm(h)), self.square(self.within))
        gated = F.glu(torch.cat([h, h @ self.square(self.gate).T], dim=1), dim=1)
        channels = gated.view(-1, self.channels, D).unbind(1)
        parts = []
        for which in range(2):
            parts.append(sum(F.linear(each, self.out[which, number].tril()) for number, each in enumerate(channels)))
        return torch.stack(parts, dim=-1)


def double(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return module.double().eval()


class Sequence(nn.Module):
    """Convolutions that see the past alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 4, 3), nn.Conv1d(4, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.elu(self.first(F.pad(x[:, None], (3, 0))[..., :-1]))
        return self.second(F.pad(h, (1, 0))).squeeze(1)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.5),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.5),
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": lambda x: F.softplus(x, 2.0),
    "logsigmoid": F.logsigmoid,
    "hardswish": F.hardswish,
    "relu6": lambda x: F.relu6(4 * x),
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "tanhshrink": F.tanhshrink,
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp min": lambda x: x.clamp(min=-0.3),
    "maximum": lambda x: torch.maximum(x, 2 * x - 1),
    "cube": lambda x: x**3,
    "square": torch.square,
    "minus": lambda x: 1 - x / 3,
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "flip": lambda x: x.flip(1),
    "parts": lambda x: torch.cat([x[:, 2:].relu(), x[:, :2] * 3 + 1], dim=1).roll(2, 1),
    "choice": lambda x: torch.where(torch.arange(D) % 2 == 0, x.tanh(), torch.ones(())),
    "filled": lambda x: x.masked_fill(torch.arange(D) == 2, 0.5),
    "written": lambda x: _written(x + 0),
    "running sum": lambda x: x.cumsum(1),
    "logit": lambda x: torch.logit(torch.sigmoid(x)),
}


# With what not every program has, and what rounds.
SPECIAL: dict[str, Callable[[Tensor], Tensor]] = {
    "cast": lambda x: x.float().to(x.dtype),
    "exp": torch.exp,
    "softsign": F.softsign,
    "quotient": lambda x: x / (2 + x.square()),
    "inverse": lambda x: (1 + x.abs()) ** -1,
}


def _written(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 0] = 0.25
    y[:, 1:] = x[:, 1:].relu_()
    y[:, 2] *= 2
    return y


class Bent(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.weight, self.name = nn.Parameter(torch.randn(D, D)), name

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(x, self.weight.tril(-1), torch.arange(D).to(x) / 5)
        return (FUNCTIONS | SPECIAL)[self.name](h)


class Conditioned(nn.Module):
    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.weight, self.context = nn.Parameter(torch.randn(D, D)), nn.Linear(C, D)

    def both(self, x: Tensor, c: Tensor) -> Tensor:
        return F.linear(x, self.weight.tril(-1)) * torch.sigmoid(self.context(c)) + c[:, :1]


class Positional(Conditioned):
    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.both(x, c)


class Keyword(Conditioned):
    def forward(self, x: Tensor, scale: float = 1.0, *, cond: Tensor) -> Tensor:
        return self.both(x, cond) * scale


class Joined(Conditioned):
    def forward(self, x: Tensor) -> Tensor:
        return self.both(*x.split([D, C], dim=1))


class Categories(nn.Module):
    """Reads categories one-hot, or as numbers."""

    def __init__(self, sizes: tuple[int, ...], one_hot: bool) -> None:
        super().__init__()
        owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        self.register_buffer("mask", owner[:, None] > (owner if one_hot else torch.arange(len(sizes))))
        self.weight = nn.Parameter(torch.randn(self.mask.shape))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask)


class Constant(nn.Module):
    """Reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), 1) + torch.cat([(x[:, :each] * 2).sum(1, keepdim=True) for each in range(1)], 1)
