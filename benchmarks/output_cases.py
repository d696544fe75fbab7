"""Networks with outputs beyond Bernoulli that ``benchmarks.outputs`` times. Fresh weights, scaled so that draws vary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from made_fast import MADE
from made_fast.outputs import (
    Bernoulli,
    Categorical,
    Code,
    Conditional,
    Mixed,
    MixtureOfLogistics,
    MixtureOfNormals,
    Normal,
    Output,
)

ROWS = 960
EMBEDDED_FROM, EMBEDDING = (
    100,
    32,
)  # columns with more categories are read by so many numbers, in the table of 20 columns
TABLE_SIZES = (2, 2, 3, 4, 6, 7, 12, 20, 31, 50, 75, 100, 365, 700, 1200, 2000)


@dataclass(frozen=True)
class OutputCase:
    """A network and a number of rows.

    Attributes:
        label: the output in words.
        output: makes it.
        features: D.
        hidden: widths of the hidden layers.
        rows: B.
    """

    label: str
    output: Callable[[], Output]
    features: int = 784
    hidden: tuple[int, ...] = (512, 512)
    rows: int = ROWS

    @property
    def name(self) -> str:
        shape = f"{self.features}x{self.hidden[0]}x{len(self.hidden)}" if self.hidden else f"{self.features}"
        return f"{self.label}, {shape}-B{self.rows}"

    def model(self) -> MADE:
        """A network with fresh weights in which the conditionals depend visibly on what was drawn before.

        The weights that make parameters are scaled to a standard deviation of 1 from row to row for logits and 0.5 for the
        parameters of real numbers and mixtures (more would let real numbers grow from variable to variable).
        """
        torch.manual_seed(0)
        model = MADE(self.features, self.hidden, output=self.output())
        conditionals = model.conditionals
        x = torch.stack([_any_values(each, 64) for each in conditionals], dim=1)
        with torch.no_grad():
            params = model(x)
            used = params.std(0) > 0  # the first variable depends on nothing
            wanted = torch.cat([torch.full((each.num_params,), _spread(each)) for each in conditionals])
            scale = torch.where(used, wanted / params.std(0)[used].mean(), 1.0)
            model.parameters_layer.weight.mul_(scale[:, None])
            model.parameters_layer.bias.copy_(torch.cat([_biases(each) for each in conditionals]))
        return model.eval()


def _spread(conditional: Conditional) -> float:
    return 1.0 if conditional.code in (Code.BERNOULLI, Code.SPIN, Code.CATEGORICAL) else 0.5


def _biases(conditional: Conditional) -> torch.Tensor:
    """(K,): zero but for binary variables (13 % ones, as in binarized MNIST) and for locations and scales."""
    bias, components = torch.zeros(conditional.num_params), conditional.components or 1
    if conditional.code == Code.BERNOULLI:
        bias.fill_(torch.logit(torch.tensor(0.13)).item())
    elif conditional.code in (Code.NORMAL, Code.MIXTURE_OF_NORMALS, Code.MIXTURE_OF_LOGISTICS):
        bias[-2 * components : -components] = torch.linspace(-0.8, 0.8, components) if components > 1 else 0
        bias[-components:] = -2.0  # a scale of about 0.13
    return bias


def _any_values(conditional: Conditional, rows: int) -> torch.Tensor:
    values = conditional.values()
    return torch.randn(rows) if values is None else values.float()[torch.randint(len(values), (rows,))]


def table_output() -> Mixed:
    """A table of 20 columns: 16 categorical ones of 2 to 2,000 categories, two normal ones and two mixtures of normals."""
    columns: list[Output] = [
        Categorical(size, embedding=EMBEDDING if size > EMBEDDED_FROM else 0) for size in TABLE_SIZES
    ]
    columns[4:4] = [Normal(), MixtureOfNormals(5)]
    columns[12:12] = [Normal(), MixtureOfNormals(5)]
    return Mixed(columns)


CASES = (
    OutputCase("Bernoulli", Bernoulli),
    OutputCase("Categorical(2)", lambda: Categorical(2)),
    OutputCase("Categorical(10)", lambda: Categorical(10)),
    OutputCase("MixtureOfNormals(5)", lambda: MixtureOfNormals(5)),
    OutputCase("MixtureOfLogistics(10)", lambda: MixtureOfLogistics(10, levels=256)),
    OutputCase("table", table_output, features=20, hidden=(256, 256)),
    OutputCase("Categorical(256)", lambda: Categorical(256)),
)
QUICK_CASES = (
    OutputCase("Bernoulli", Bernoulli, 16, (32, 32), 64),
    OutputCase("Categorical(10)", lambda: Categorical(10), 16, (32, 32), 64),
    OutputCase("MixtureOfNormals(5)", lambda: MixtureOfNormals(5), 16, (32, 32), 64),
    OutputCase("MixtureOfLogistics(10)", lambda: MixtureOfLogistics(10, levels=256), 16, (32, 32), 64),
    OutputCase("table", table_output, 20, (32, 32), 64),
)
