"""Where GPU tests run. ``MADE_FAST_TEST_DEVICE=cpu TRITON_INTERPRET=1`` runs their code without a GPU, on small sizes."""

import os
from collections.abc import Callable

import pytest
import torch

DEVICE = os.environ.get("MADE_FAST_TEST_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
NO_GPU = "no CUDA device: torch.cuda.is_available() is false"

needs_device = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason=NO_GPU),
]
needs_cuda = pytest.mark.skipif(not ON_GPU, reason="about streams, graphs or memory of a GPU")


def sized(on_gpu: int, interpreted: int) -> int:
    """A size for the GPU, and a small one for the interpreter."""
    return on_gpu if ON_GPU else interpreted


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """A line in the output of the tests, also when they pass."""
    with capsys.disabled():
        print(f"\n    {text}", end="", flush=True)


Say = Callable[[pytest.CaptureFixture[str], str], None]
