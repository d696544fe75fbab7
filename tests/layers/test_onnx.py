"""Models in ONNX Runtime: parameters and log-probabilities of every output, for any number of rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from exported import Both, example_model
from torch import Tensor, nn

from made_fast import MADE
from made_fast.outputs import OUTPUTS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

MODELS: dict[str, Any] = {
    **{name: lambda name=name: example_model(name) for name in OUTPUTS},
    "large logits": lambda: example_model("bernoulli"),
    "residual": lambda: MADE(5, (16, 16), residual=True, direct=True, order="random", activation="gelu").eval(),
    "with a context": lambda: MADE(5, (16,), context_features=2, direct=True, activation="silu").eval(),
    "ensemble": lambda: MADE(5, (16,), num_masks=3, mask_conditioning=True).eval(),
}


def _inputs(model: MADE, rows: int, seed: int) -> tuple[Tensor, ...]:
    if not model.context_features:
        return (model.sample(rows, seed=seed),)
    context = torch.randn(rows, model.context_features)
    return model.sample(1, context, seed=seed)[:, 0], context


@pytest.mark.parametrize("name", MODELS)
def test_models_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    model = MODELS[name]()
    if name == "large logits":
        nn.init.normal_(model.parameters_layer.bias, 0, 300)
    inputs, rows = _inputs(model, 12, 0), torch.export.Dim("rows")
    shapes = tuple({0: rows} for _ in inputs)
    program = torch.onnx.export(Both(model), inputs, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    for number in (1, 7):
        given = _inputs(model, number, 1)
        if name == "large logits":
            given = (1 - given[0],)
        found = session.run(None, dict(zip(names, (each.numpy() for each in given), strict=True)))
        expected = model(*given), model.log_prob(*given)
        assert expected[1].isfinite().all()
        torch.testing.assert_close(tuple(map(torch.from_numpy, found)), expected, rtol=1e-4, atol=1e-4)
