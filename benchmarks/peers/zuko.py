"""zuko: its affine autoregressive flow, and its masked network with a loop by hand that draws bits."""

from typing import Any

from ._protocol import Call, Draw, Widths, main, one_layer

PACKAGES = ("torch==2.13.0", "numpy==2.4.6", "zuko==1.6.0")


def prepare_maf(features: int, widths: Widths, rows: int) -> Draw:
    """`zuko.flows.MAF` with one transform; its inverse, which sampling needs, makes D passes."""
    import torch
    import zuko

    flow = zuko.flows.MAF(features=features, transforms=1, hidden_features=widths).eval()

    def draw(seed: int) -> Any:
        with torch.no_grad():
            return flow().sample((rows,))

    return draw


def prepare_mlp(features: int, widths: Widths, rows: int) -> Draw:
    """`zuko.nn.MaskedMLP` as a Bernoulli MADE, with the D passes written by hand: zuko has no discrete sampler."""
    import torch
    import zuko

    net = zuko.nn.MaskedMLP(torch.ones(features, features).tril(-1).bool(), widths).eval()

    def draw(seed: int) -> Any:
        with torch.no_grad():
            x = torch.zeros(rows, features)
            for step in range(features):
                x[:, step] = torch.bernoulli(torch.sigmoid(net(x)[:, step]))
            return x

    return draw


CALLS = (
    Call(
        "maf",
        "zuko.flows.MAF(features=D, transforms=1, hidden_features=[H])().sample((B,))",
        "real, affine; D whole passes",
        one_layer,
        prepare_maf,
    ),
    Call(
        "masked-mlp",
        "for d in range(D): x[:, d] = bernoulli(sigmoid(net(x)[:, d])), net = zuko.nn.MaskedMLP(adjacency, [H])",
        "Bernoulli; D whole passes, loop by hand",
        one_layer,
        prepare_mlp,
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS)
