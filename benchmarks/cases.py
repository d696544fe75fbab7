"""The one table of cases: which networks, with how many rows, each suite measures; ``cases_of`` hands them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

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

ONE_FRACTION = 0.13  # of the pixels of binarized MNIST
EMBEDDED_FROM, EMBEDDING = (
    100,
    32,
)  # columns with more categories are read by so many numbers, in the table of 20 columns
TABLE_SIZES = (2, 2, 3, 4, 6, 7, 12, 20, 31, 50, 75, 100, 365, 700, 1200, 2000)


def table_output() -> Mixed:
    """A table of 20 columns: 16 categorical ones of 2 to 2,000 categories, two normal ones and two mixtures of normals."""
    columns: list[Output] = [
        Categorical(size, embedding=EMBEDDING if size > EMBEDDED_FROM else 0) for size in TABLE_SIZES
    ]
    columns[4:4] = [Normal(), MixtureOfNormals(5)]
    columns[12:12] = [Normal(), MixtureOfNormals(5)]
    return Mixed(columns)


OUTPUTS: dict[str, Callable[[], Output]] = {
    "Bernoulli": Bernoulli,
    "Categorical(2)": lambda: Categorical(2),
    "Categorical(4)": lambda: Categorical(4),
    "Categorical(10)": lambda: Categorical(10),
    "MixtureOfNormals(5)": lambda: MixtureOfNormals(5),
    "MixtureOfLogistics(10)": lambda: MixtureOfLogistics(10, levels=256),
    "table": table_output,
    "Categorical(256)": lambda: Categorical(256),
}


@dataclass(frozen=True)
class Case:
    """A network (D variables, L hidden layers of H units) and a number of rows.

    Attributes:
        features, hidden, layers, rows: D, H, L, B.
        output: one of ``OUTPUTS``, in a network in which draws vary; "" for the bits of a fresh network.
    """

    features: int
    hidden: int
    layers: int
    rows: int
    output: str = ""

    @classmethod
    def named(cls, name: str) -> Case:
        """``784x512x2-B960``; one row where ``-B`` is not said."""
        shape, _, rows = name.partition("-B")
        features, hidden, layers = map(int, shape.split("x"))
        return cls(features, hidden, layers, int(rows or 1))

    @property
    def shape(self) -> tuple[int, int, int]:
        """D, H, L."""
        return self.features, self.hidden, self.layers

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the hidden layers."""
        return (self.hidden,) * self.layers

    @property
    def shape_name(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def name(self) -> str:
        shape = f"{self.shape_name}-B{self.rows}"
        return f"{self.output}, {shape}" if self.output else shape

    def with_rows(self, rows: int) -> Case:
        """The same network with another number of rows."""
        return replace(self, rows=rows)

    def model(self, *, one_fraction: float = ONE_FRACTION) -> MADE:
        """The network with fresh weights, the same ones each time.

        Fresh weights would draw every second variable as 1, which no data set at hand does. Without ``output`` only the
        biases of the logits are set; one row at a time is quicker the more zeros are drawn, so the fraction is part of
        every result.
        """
        torch.manual_seed(0)
        if self.output:
            return _varied(MADE(self.features, self.widths, output=OUTPUTS[self.output]())).eval()
        model = MADE(self.features, self.widths)
        with torch.no_grad():
            model.parameters_layer.bias.fill_(torch.logit(torch.tensor(one_fraction)).item())
        return model.eval()

    def some_rows(self) -> torch.Tensor:
        """Bits (B, D) that are 1 as often as those that the network draws, always the same."""
        generator = torch.Generator().manual_seed(1)
        return (torch.rand(self.rows, self.features, generator=generator) < ONE_FRACTION).float()


def _varied(model: MADE) -> MADE:
    """Scales weights until the conditionals depend visibly on what was drawn before.

    The weights that make parameters get a standard deviation of 1 from row to row for logits and 0.5 for the parameters of
    real numbers and mixtures (more would let real numbers grow from variable to variable).
    """
    conditionals = model.conditionals
    x = torch.stack([_any_values(conditional, 64) for conditional in conditionals], dim=1)
    with torch.no_grad():
        params = model(x)
        used = params.std(0) > 0  # the first variable depends on nothing
        wanted = torch.cat(
            [torch.full((conditional.num_params,), _spread(conditional)) for conditional in conditionals]
        )
        scale = torch.where(used, wanted / params.std(0)[used].mean(), 1.0)
        model.parameters_layer.weight.mul_(scale[:, None])
        model.parameters_layer.bias.copy_(torch.cat([_biases(conditional) for conditional in conditionals]))
    return model


def _spread(conditional: Conditional) -> float:
    return 1.0 if conditional.code in (Code.BERNOULLI, Code.SPIN, Code.CATEGORICAL) else 0.5


def _biases(conditional: Conditional) -> torch.Tensor:
    """(K,): zero but for binary variables (13 % ones, as in binarized MNIST) and for locations and scales."""
    bias, components = torch.zeros(conditional.num_params), conditional.components or 1
    if conditional.code == Code.BERNOULLI:
        bias.fill_(torch.logit(torch.tensor(ONE_FRACTION)).item())
    elif conditional.code in (Code.NORMAL, Code.MIXTURE_OF_NORMALS, Code.MIXTURE_OF_LOGISTICS):
        bias[-2 * components : -components] = torch.linspace(-0.8, 0.8, components) if components > 1 else 0
        bias[-components:] = -2.0  # a scale of about 0.13
    return bias


def _any_values(conditional: Conditional, rows: int) -> torch.Tensor:
    values = conditional.values()
    return torch.randn(rows) if values is None else values.float()[torch.randint(len(values), (rows,))]


class Group(NamedTuple):
    """What a suite measures, and what it measures with ``--quick``."""

    full: tuple[Case, ...]
    quick: tuple[Case, ...]


def _grid(shapes: Iterable[str], rows: Iterable[int]) -> tuple[Case, ...]:
    """Every shape with every number of rows."""
    rows = tuple(rows)
    return tuple(Case.named(shape).with_rows(count) for shape in shapes for count in rows)


def _outputs(table: str, others: str, names: Iterable[str]) -> tuple[Case, ...]:
    """A network for each output; that of the table has a shape of its own."""
    return tuple(replace(Case.named(table if name == "table" else others), output=name) for name in names)


MIDDLE = "784x512x2"
SHAPES = ("16x256x2", "64x512x2", "784x500x1", MIDDLE, "784x1024x2", "784x8000x1", "3072x1024x2")
QUICK_OUTPUTS = ("Bernoulli", "Categorical(10)", "MixtureOfNormals(5)", "MixtureOfLogistics(10)", "table")
JUDGED = (MIDDLE, "784x1024x2")  # on a GPU; of these the design has targets
GPU_SHAPES = (*JUDGED, "16x256x2", "64x512x2", "784x500x1", "784x8000x1", "3072x1024x2")
MANY, SOME = (131_072, 16_384), (100, 1024)
TINY = "6x8x1"
_SMALL = _grid(["16x32x2"], [24])

CASES: dict[str, Group] = {
    "sampling": Group(_grid(SHAPES, [960]), _grid(["16x32x2", "24x16x1"], [64])),
    "one row": Group(_grid(SHAPES, [1]), _grid(["16x32x2", "24x16x1"], [1])),
    "small": Group(_grid(["16x256x2", "64x512x2"], [1]), _grid(["16x32x2"], [1])),
    "batch sizes": Group(_grid([MIDDLE], [1, 4, 16, 64, 256, 1024, 4096]), _grid(["16x32x2"], [1, 4])),
    "variables": Group(
        _grid([f"{features}x512x2" for features in (16, 64, 256, 784, 1568, 3072)], [256]),
        _grid(["8x32x2", "16x32x2"], [16]),
    ),
    "whole samplers": Group(_grid(["64x512x2", MIDDLE], [100]), _grid(["16x32x2"], [20])),
    "training": Group(_grid([MIDDLE, "784x1024x2", "784x8000x1", "64x512x2"], [16, 100, 256, 1024]), _SMALL),
    "changing masks": Group(_grid([MIDDLE, "784x1024x2", "784x8000x1", "64x512x2"], [256]), _SMALL),
    "outputs": Group(
        _outputs("20x256x2-B960", f"{MIDDLE}-B960", OUTPUTS), _outputs("20x32x2-B64", "16x32x2-B64", QUICK_OUTPUTS)
    ),
    "peers": Group(_grid(["64x512x1", "784x512x1"], [1, 100]), _grid(["8x16x1"], [4])),
    "output peers": Group(_grid(["64x512x2", MIDDLE], [100]), _grid(["8x16x2"], [4])),
    "pytest, draws": Group(_grid(["64x512x2", MIDDLE], [1, 960]), _SMALL),
    "pytest, training": Group(_grid(["64x512x2", MIDDLE], [256]), _SMALL),
    "gpu, many rows": Group(
        tuple(case for rows in MANY for case in _grid(JUDGED, [rows])),
        _grid([TINY], [5]),
    ),
    "gpu, few rows": Group(_grid(JUDGED, [1, 8, 32, 128]), _grid([TINY], [1, 2])),
    "gpu, rest": Group(
        tuple(
            case
            for shape in GPU_SHAPES
            for case in _grid([shape], SOME if shape in JUDGED else (*SOME, *MANY, 1))
        ),
        (),
    ),
    "gpu, contenders": Group(_grid([MIDDLE], [100]), _grid([TINY], [3])),
    "gpu, steps": Group(_grid(["784x2048x2", "784x4096x2", "784x1024x2"], [8192]), _grid(["6x40x2"], [24])),
    "gpu, expected": Group(_grid(GPU_SHAPES, [1, 100, 1024, 16_384, 131_072]), _grid(["16x40x2"], [1, 131_072])),
}  # fmt: skip


def cases_of(name: str, *, quick: bool = False) -> tuple[Case, ...]:
    """The cases of a group."""
    return CASES[name].quick if quick else CASES[name].full
