"""sbi: its categorical MADE with ten categories, for the suite ``output_peers``."""

from typing import Any

from ._protocol import Call, Draw, Widths, main, two_layers
from .sbi import PACKAGES


def prepare(features: int, widths: Widths, rows: int) -> Draw:
    """Its own sampling loop; the network reads the number of each category, not one-hot units."""
    import torch
    from sbi.neural_nets.estimators.categorical_net import CategoricalMADE

    options: dict[str, Any] = {"num_context_features": 1, "num_blocks": 1, "use_residual_blocks": False}
    net = CategoricalMADE(torch.full((features,), 10), widths[0], **options).eval()
    condition = torch.zeros(1, 1)

    def draw(seed: int) -> Any:
        with torch.no_grad():
            return net.sample(torch.Size([rows]), condition)

    return draw


CALLS = (
    Call(
        "categorical",
        "CategoricalMADE(torch.full((D,), 10), H, num_context_features=1, num_blocks=1, use_residual_blocks=False)"
        ".sample([B], zeros(1, 1))",
        "10 categories read as one number; D whole passes",
        two_layers,
        prepare,
        "its first layer is a tenth of ours, which reads one-hot units",
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS)
