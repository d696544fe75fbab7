"""Masks of every kind, and what masked_linear refuses because it is no dense tensor."""

from typing import Any

import numpy as np
import pytest
import torch

from made_fast import MaskedLinear, masked_linear


def test_masked_layers_take_masks_of_every_kind() -> None:
    rows = [[1, 0, 0], [1, 1, 0]]
    for mask in (rows, np.array(rows), np.array(rows, dtype=bool), torch.tensor(rows).double()):
        assert torch.equal(MaskedLinear(3, 2, mask).mask, torch.tensor(rows).bool())
    for mask in (
        "mask",
        torch.tensor(rows).to_sparse(),
        torch.tensor(rows).cfloat(),
        torch.zeros(2, 3, device="meta"),
        1,
    ):
        with pytest.raises(ValueError, match=r"^mask must "):
            MaskedLinear(3, 2, mask)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("argument", ["x", "weight", "mask", "bias"])
def test_masked_linear_refuses_what_is_no_dense_tensor(argument: str) -> None:
    known = {"x": torch.ones(9, 4), "weight": torch.ones(5, 4), "mask": torch.ones(5, 4).bool(), "bias": torch.ones(5)}
    tensor = known[argument].float()
    odd: dict[str, Any] = {
        "array": tensor.numpy(),
        "list": tensor.tolist(),
        "text": "x",
        "sparse": tensor.to_sparse(),
        "of oneDNN": tensor.to_mkldnn(),
        "quantized": torch.quantize_per_tensor(tensor, 1.0, 0, torch.quint8),
        "complex": tensor.cfloat(),
        "half": tensor.half(),
        "eight bits": tensor.to(torch.float8_e4m3fn),
        "whole": tensor.int(),
        "nested": torch.nested.nested_tensor([tensor[:1], tensor[:2]]),
        "meta": tensor.to("meta"),
        "no dimension": torch.tensor(1.0),
    }
    for kind, value in odd.items():
        for backend in ("auto", "reference"):
            with pytest.raises(ValueError, match=rf"\b{argument}\b") as error:
                assert masked_linear(**{**known, argument: value, "backend": backend}) is None, f"{kind} was taken"
            assert "must " in str(error.value), kind
