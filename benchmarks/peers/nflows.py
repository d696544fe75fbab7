"""nflows: its masked affine autoregressive transform as a flow."""

from typing import Any

from ._protocol import Call, Draw, Widths, main, two_layers

PACKAGES = ("torch==2.13.0", "numpy==2.4.6", "nflows==0.14")


def prepare(features: int, widths: Widths, rows: int) -> Draw:
    """One transform over a standard normal; `sample` inverts it in D passes."""
    import torch
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform

    transform = MaskedAffineAutoregressiveTransform(features, widths[0], num_blocks=1, use_residual_blocks=False)
    flow = Flow(transform, StandardNormal([features])).eval()

    def draw(seed: int) -> Any:
        with torch.no_grad():
            return flow.sample(rows)

    return draw


CALLS = (
    Call(
        "maf",
        "Flow(MaskedAffineAutoregressiveTransform(D, H, num_blocks=1, use_residual_blocks=False), StandardNormal([D]))"
        ".sample(B)",
        "real, affine; D whole passes",
        two_layers,
        prepare,
        "its smallest network has two masked hidden layers",
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS)
