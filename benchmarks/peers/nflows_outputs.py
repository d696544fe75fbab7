"""nflows: its MADE with mixtures of normals, for the suite ``output_peers``."""

from typing import Any

from ._protocol import Call, Draw, Widths, main, two_layers
from .nflows import PACKAGES


def prepare(features: int, widths: Widths, rows: int) -> Draw:
    """Its own sampling loop, which demands a context; given one number."""
    import torch
    from nflows.nn.nde.made import MixtureOfGaussiansMADE

    options: dict[str, Any] = {"num_blocks": 1, "use_residual_blocks": False, "num_mixture_components": 5}
    net = MixtureOfGaussiansMADE(features, widths[0], context_features=1, **options).eval()
    context = torch.zeros(1, 1)
    return lambda seed: net.sample(rows, context)


CALLS = (
    Call(
        "mixture",
        "MixtureOfGaussiansMADE(D, H, context_features=1, num_blocks=1, use_residual_blocks=False, "
        "num_mixture_components=5).sample(B, zeros(1, 1))",
        "mixture of 5 normals; D whole passes",
        two_layers,
        prepare,
        "a context of one number, without which it cannot sample; one ReLU between its two masked hidden layers",
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS)
