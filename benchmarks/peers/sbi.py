"""sbi: its own categorical MADE, and its affine flow and Gaussian MADE on nflows; all are given one context number."""

from collections.abc import Callable
from typing import Any

from ._protocol import Call, Draw, Widths, main, two_layers

PACKAGES = ("torch==2.13.0", "numpy==2.4.6", "sbi==0.27.0")


def _eleven_layers(features: int, hidden: int) -> Widths:
    """`build_made` fixes five residual blocks of two layers after the first."""
    return (hidden,) * 11


def _prepare_builder(builder: str, **options: int) -> Callable[[int, Widths, int], Draw]:
    def prepare(features: int, widths: Widths, rows: int) -> Draw:
        import torch
        from sbi.neural_nets.net_builders import flow

        x, context = torch.randn(100, features), torch.randn(100, 1)
        net = getattr(flow, builder)(x, context, hidden_features=widths[0], **options).eval()
        condition = torch.zeros(1, 1)

        def draw(seed: int) -> Any:
            with torch.no_grad():
                return net.sample((rows,), condition)

        return draw

    return prepare


def prepare_categorical(features: int, widths: Widths, rows: int) -> Draw:
    """`CategoricalMADE` with two categories for each variable: a Bernoulli MADE."""
    import torch
    from sbi.neural_nets.estimators.categorical_net import CategoricalMADE

    categories = torch.full((features,), 2)
    net = CategoricalMADE(categories, widths[0], num_context_features=1, num_blocks=1, use_residual_blocks=False).eval()
    condition = torch.zeros(1, 1)

    def draw(seed: int) -> Any:
        with torch.no_grad():
            return net.sample(torch.Size([rows]), condition)

    return draw


CALLS = (
    Call(
        "categorical-made",
        "CategoricalMADE(torch.full((D,), 2), H, num_context_features=1, num_blocks=1, use_residual_blocks=False)"
        ".sample([B], condition)",
        "two categories (a Bernoulli); D whole passes",
        two_layers,
        prepare_categorical,
        "two logits for each variable; an extra constant variable in front",
    ),
    Call(
        "maf",
        "build_maf(x, condition, hidden_features=H, num_transforms=1, num_blocks=1).sample((B,), condition)",
        "real, affine; D whole passes",
        two_layers,
        _prepare_builder("build_maf", num_transforms=1, num_blocks=1),
    ),
    Call(
        "made",
        "build_made(x, condition, hidden_features=H, num_mixture_components=1).sample((B,), condition)",
        "real, Gaussian; D whole passes",
        _eleven_layers,
        _prepare_builder("build_made", num_mixture_components=1),
        "five residual blocks of two layers, which build_made fixes: eleven masked hidden layers",
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS)
