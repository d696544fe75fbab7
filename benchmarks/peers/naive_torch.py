"""The naive sampler, with no library: one whole pass per variable through ``F.linear(x, weight * mask)``."""

import itertools
from typing import Any

from ._protocol import Call, Draw, Widths, main, one_layer, two_layers

PACKAGES = ("torch==2.13.0", "numpy==2.4.6")


def _layers(features: int, widths: Widths) -> list[tuple[Any, Any, Any]]:
    """Weights (out, in), masks (out, in) and biases (out,) of a MADE in natural order, as torch initialises them."""
    import torch

    inputs = torch.arange(1, features + 1)
    degrees = [inputs, *(torch.arange(width) * features // width for width in widths), inputs - 1]
    layers = []
    for columns, rows in itertools.pairwise(degrees):
        linear = torch.nn.Linear(len(columns), len(rows))
        layers.append((linear.weight.detach(), rows[:, None] >= columns, linear.bias.detach()))
    return layers


def prepare(features: int, widths: Widths, rows: int) -> Draw:
    """Bernoulli MADE, D passes."""
    import torch
    from torch.nn import functional as F

    layers = _layers(features, widths)

    def draw(seed: int) -> Any:
        with torch.no_grad():
            uniforms = torch.rand(rows, features)
            x = torch.zeros(rows, features)
            for step in range(features):
                h = x
                for weight, mask, bias in layers[:-1]:
                    h = torch.relu(F.linear(h, weight * mask, bias))
                weight, mask, bias = layers[-1]
                logits = F.linear(h, weight * mask, bias)
                x[:, step] = (uniforms[:, step] < torch.sigmoid(logits[:, step])).float()
            return x

    return draw


CALLS = (
    Call(
        "1-layer",
        "for d in range(D): x[:, d] = u[:, d] < sigmoid(net(x)[:, d]), net: F.linear(h, weight * mask, bias)",
        "Bernoulli, D whole passes",
        one_layer,
        prepare,
    ),
    Call(
        "2-layer",
        "for d in range(D): x[:, d] = u[:, d] < sigmoid(net(x)[:, d]), net: F.linear(h, weight * mask, bias)",
        "Bernoulli, D whole passes",
        two_layers,
        prepare,
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS)
