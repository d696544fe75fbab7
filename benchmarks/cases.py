"""The one table of cases: which networks and batch sizes are measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from made_fast import MADE


@dataclass(frozen=True)
class Case:
    """A network (D variables, L hidden layers of H units) and a number of rows."""

    features: int
    hidden: int
    layers: int
    rows: int

    @property
    def name(self) -> str:
        return f"{self.features}x{self.hidden}x{self.layers}-B{self.rows}"

    def model(self, *, one_fraction: float = 0.13) -> MADE:
        """A network with fresh weights whose variables are 1 about as often as the pixels of binarized MNIST.

        Fresh weights would draw every second variable as 1, which no data set at hand does. Only the biases of the logits
        are set; one row at a time is quicker the more zeros are drawn, so the fraction is part of every result.
        """
        torch.manual_seed(0)
        model = MADE(self.features, (self.hidden,) * self.layers)
        with torch.no_grad():
            model.parameters_layer.bias.fill_(torch.logit(torch.tensor(one_fraction)).item())
        return model.eval()


SHAPES = ((16, 256, 2), (64, 512, 2), (784, 500, 1), (784, 512, 2), (784, 1024, 2), (784, 8000, 1), (3072, 1024, 2))
ROWS = 960
BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
WIDTHS_BY_FEATURES = (16, 64, 256, 784, 1568, 3072)  # D, at 512x2
CASES = tuple(Case(*shape, ROWS) for shape in SHAPES)
ONE_ROW = tuple(Case(*shape, 1) for shape in SHAPES)
BATCH_SWEEP = tuple(Case(784, 512, 2, rows) for rows in BATCHES)
FEATURE_SWEEP = tuple(Case(features, 512, 2, 256) for features in WIDTHS_BY_FEATURES)
TRAINING_SHAPES = ((784, 512, 2), (784, 1024, 2), (784, 8000, 1), (64, 512, 2))
TRAINING_BATCHES = (16, 100, 256, 1024)
