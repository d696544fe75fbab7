"""What is exported of models, and a small model of each output."""

from torch import Tensor, nn

from made_fast import MADE
from made_fast.outputs import OUTPUTS


class Both(nn.Module):
    """Parameters and log-probabilities."""

    def __init__(self, model: MADE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.model(x, context), self.model.log_prob(x, context)


def example_model(name: str) -> MADE:
    output = OUTPUTS[name].example()
    for features in (5, *range(1, 9)):
        try:
            output.conditionals(features)
        except ValueError:
            continue
        return MADE(features, (16, 16), output=output).eval()
    raise AssertionError(name)
