"""Where GPU tests run. ``MADE_FAST_TEST_DEVICE=cpu TRITON_INTERPRET=1`` runs their code without a GPU, on small sizes."""

import os

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


def say(text: str) -> None:
    """A line for the report of ``make gpu``, also when the test passes: to the file in ``MADE_FAST_TEST_NOTES``, if any."""
    path = os.environ.get("MADE_FAST_TEST_NOTES")
    if path:
        with open(path, "a") as file:
            file.write(text + "\n")
    print(text)
