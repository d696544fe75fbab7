"""What tests of flows of other libraries share."""

import importlib
from typing import Any

import pytest
import torch
from torch import nn


def library(name: str) -> Any:
    pytest.importorskip(name)
    return importlib.import_module(name)


def stirred(module: nn.Module, dtype: torch.dtype = torch.float64) -> Any:
    """In evaluation mode, with weights that are no library's cautious first ones."""
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.to(dtype).eval()


def same(ours: Any, theirs: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
