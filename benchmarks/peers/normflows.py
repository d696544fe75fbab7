"""normflows: its masked affine autoregressive flow, in the direction that is sequential."""

from typing import Any

from ._protocol import Call, Draw, Widths, main, two_layers

PACKAGES = ("torch==2.13.0", "numpy==2.4.6", "normflows==1.7.3")


def prepare(features: int, widths: Widths, rows: int) -> Draw:
    """`inverse` of normal noise: the direction in which a density that is read in one pass is sampled."""
    import torch
    from normflows.flows import MaskedAffineAutoregressive

    flow = MaskedAffineAutoregressive(features, widths[0], num_blocks=1, use_residual_blocks=False).eval()

    def draw(seed: int) -> Any:
        with torch.no_grad():
            return flow.inverse(torch.randn(rows, features))[0]

    return draw


CALLS = (
    Call(
        "maf",
        "MaskedAffineAutoregressive(D, H, num_blocks=1, use_residual_blocks=False).inverse(torch.randn(B, D))",
        "real, affine; D whole passes",
        two_layers,
        prepare,
        "two masked hidden layers, one ReLU; NormalizingFlow.sample takes the other direction (inverse autoregressive: "
        "one pass to sample, D to read a density), which is another model",
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS)
