"""A draw of several launches as one CUDA graph: captured at the second draw of a kind, replayed for any seed and row."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

__all__ = ["CapturedDraw", "CapturedDraws"]

_GRAPHS_KEPT = 8  # each has scratch of its own


class CapturedDraw:
    """The launches of one draw with buffers of their own.

    Args:
        run: launches a draw from (request, out, log_prob) and returns the flags.
        request: int64, the words of ``RequestWord``.
        out: (B, D).
        log_prob: (B,) or None.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        request: Tensor,
        out: Tensor,
        log_prob: Tensor | None,
    ) -> None:
        self.request, self.out = request.clone(), torch.empty_like(out)
        self.log_prob = None if log_prob is None else torch.empty_like(log_prob)
        # Into the same buffers first: kernels are compiled for the alignment of what they are given, and not while capturing.
        self.flags = run(self.request, self.out, self.log_prob)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(out.device), torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.flags = run(self.request, self.out, self.log_prob)

    def replay(self, request: Tensor, out: Tensor, log_prob: Tensor | None) -> Tensor:
        """Draws into ``out`` and ``log_prob``; returns the flags."""
        self.request.copy_(request)
        self.graph.replay()
        out.copy_(self.out)
        if log_prob is not None and self.log_prob is not None:
            log_prob.copy_(self.log_prob)
        return self.flags.clone()


class CapturedDraws:
    """The graphs of one packed program. What a key stands for is run plainly the first time."""

    def __init__(self) -> None:
        self._captured: OrderedDict[Hashable, CapturedDraw | None] = OrderedDict()  # None: ran plainly once
        self._lock = threading.Lock()

    def run(
        self,
        key: Hashable,
        run: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        request: Tensor,
        out: Tensor,
        log_prob: Tensor | None,
    ) -> Tensor:
        """Draws by the graph of this key and of the current stream; returns the flags.

        The buffers of a graph are shared by its replays, which the stream keeps in order and the lock whole.
        """
        whole = (key, torch.cuda.current_stream(out.device).cuda_stream)
        with self._lock:
            if whole not in self._captured:
                self._captured[whole] = None
                flags = run(request, out, log_prob)
            else:
                captured = self._captured.pop(whole) or CapturedDraw(run, request, out, log_prob)
                self._captured[whole] = captured  # the most recent is the last
                flags = captured.replay(request, out, log_prob)
            while len(self._captured) > _GRAPHS_KEPT:
                self._captured.popitem(last=False)
        return flags
