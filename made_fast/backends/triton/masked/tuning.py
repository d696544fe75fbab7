"""Opt-in: with MADE_FAST_TRITON_AUTOTUNE=1 the first call of a shape times the candidates and keeps the best."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from triton.testing import do_bench

from made_fast.backends.triton.launch import Config, recording

__all__ = ["tuned"]

_best: dict[tuple[object, ...], Config] = {}


def tuned(
    key: tuple[object, ...],
    candidates: Sequence[Config],
    default: Config,
    run: Callable[[Config], object],
    device: torch.device,
) -> Config:
    """The quickest of the candidates for ``key`` on this device, or the default where nothing can or shall be timed."""
    if os.environ.get("MADE_FAST_TRITON_AUTOTUNE") != "1":
        return default
    key = (*key, str(device))
    if key not in _best:
        # Interpreted kernels run on CPU tensors; a captured or recorded launch does not run at all.
        if device.type != "cuda" or recording() or torch.cuda.is_current_stream_capturing():
            return default
        with torch.cuda.device(device):
            _best[key] = min(candidates, key=lambda config: float(do_bench(lambda: run(config))))
    return _best[key]
