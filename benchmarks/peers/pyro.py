"""Pyro: its affine autoregressive transform, inverted so that the density is the quick direction."""

from typing import Any

from ._protocol import Call, Draw, Widths, main

PACKAGES = ("torch==2.13.0", "numpy==2.4.6", "pyro-ppl==1.9.2")


def _widths(features: int, hidden: int) -> Widths:
    """Pyro refuses hidden layers that are narrower than the input."""
    return (max(features, hidden),)


def prepare(features: int, widths: Widths, rows: int) -> Draw:
    """`TransformedDistribution` over a standard normal; its inverted transform makes D passes."""
    import torch
    from pyro.distributions import Normal, TransformedDistribution
    from pyro.distributions.transforms import AffineAutoregressive
    from pyro.nn import AutoRegressiveNN

    base = Normal(torch.zeros(features), torch.ones(features)).to_event(1)
    transform = AffineAutoregressive(AutoRegressiveNN(features, list(widths))).eval()
    flow = TransformedDistribution(base, [transform.inv])

    def draw(seed: int) -> Any:
        with torch.no_grad():
            return flow.sample(torch.Size([rows]))

    return draw


CALLS = (
    Call(
        "maf",
        "TransformedDistribution(base, [AffineAutoregressive(AutoRegressiveNN(D, [max(D, H)])).inv]).sample([B])",
        "real, affine; D whole passes",
        _widths,
        prepare,
        "H must be at least D; random order of the variables; without .inv it is inverse autoregressive, another model",
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS)
