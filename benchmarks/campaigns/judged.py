"""What a draw is held against: the model's conditionals given each row's own prefix, its log-probability, naive weights."""

from __future__ import annotations

import copy
import traceback
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.campaigns.trials import Trial
from benchmarks.campaigns.ways import Drawn, Way, draw
from made_fast.testing import naive_sample, unexplained_differences

MOST_NOTES = 20  # kept of what went wrong


@dataclass
class Tally:
    """Counts of one way."""

    trials: int = 0
    rows: int = 0
    draws: int = 0
    unexplained: int = 0
    log_probs: int = 0
    log_weights: int = 0
    pieces: int = 0
    raised: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """All that must be 0."""
        return self.unexplained + self.log_probs + self.log_weights + self.pieces + self.raised

    def note(self, text: str) -> None:
        if len(self.notes) < MOST_NOTES:
            self.notes.append(text)


class Judge:
    """What one trial must give, made once for all ways."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.model = trial, trial.model
        self.exact = copy.deepcopy(trial.model).double()
        self.conditioned = "given" in trial.options or "allowed" in trial.options
        self._naive: Any = None
        self._known: dict[bytes, dict[str, int]] = {}  # most ways draw the same bits

    def judge(self, way: Way, tally: Tally) -> None:
        """Draws and counts."""
        try:
            drawn = draw(way, self.trial)
        except Exception as error:  # whatever is raised is a fault: the request is a good one
            tally.raised += 1
            tally.note(f"{way.name}: {type(error).__name__}: {error} at {_place(error)}; {self._text()}")
            return
        if drawn is None:
            return
        tally.trials += 1
        tally.rows += len(drawn.x)
        tally.draws += drawn.x.numel()
        key = b"".join(
            each.numpy().tobytes() for each in (drawn.x, drawn.log_prob, drawn.log_weight) if each is not None
        )
        if key not in self._known:
            self._known[key] = {
                "unexplained": self._unexplained(drawn),
                "log_probs": self._wrong_log_probs(drawn),
                "log_weights": self._wrong_log_weights(drawn),
            }
        for name, count in {**self._known[key], "pieces": int(not drawn.same_in_pieces)}.items():
            setattr(tally, name, getattr(tally, name) + count)
            if count:
                tally.note(f"{way.name}: {count} {name}; {self._text()}")

    def _text(self) -> str:
        return f"trial {self.trial.number}: {self.trial.text}"

    def _shaped(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.trial.count, x.shape[-1]) if self.trial.count else x[None]
        plain = self.trial.context is None and not self._many
        return rows[0] if plain else rows

    @property
    def _many(self) -> bool:
        options = self.trial.options
        given, observed = options.get("given"), options.get("observed")
        several = (given is not None and given.ndim == 2) or (observed is not None and observed.ndim == 2)
        return several or isinstance(options.get("allowed"), list)

    def _unexplained(self, drawn: Drawn) -> int:
        if not len(drawn.x):
            return 0
        trial = self.trial
        wrong = unexplained_differences(
            self.model, self._shaped(drawn.x), trial.context, tolerance=trial.tolerance, **trial.masks, **trial.options
        )
        return int(wrong.sum())

    def _wrong_log_probs(self, drawn: Drawn) -> int:
        if drawn.log_prob is None or not len(drawn.x):
            return 0
        context = self.trial.context
        if context is not None:
            context = context.double().repeat_interleave(self.trial.count, 0)
        masks = {} if self.trial.mask is None else {"masks": self.trial.mask}
        with torch.no_grad():
            expected = self.exact.log_prob(drawn.x.double(), context, **masks)
        return _far(drawn.log_prob, expected, self._slack(drawn.x))

    def _wrong_log_weights(self, drawn: Drawn) -> int:
        """Against the naive sampler's, in fp64, where it came to the same row."""
        if drawn.log_weight is None or not len(drawn.x):
            return 0
        if self._naive is None:
            trial = self.trial
            options = dict(trial.options)
            context = None if trial.context is None else trial.context.double()
            self._naive = naive_sample(self.exact, trial.count, context, **trial.masks, **options)
        x, expected = self._naive.x.reshape(drawn.x.shape), self._naive.log_weight.flatten()
        same = torch.isclose(drawn.x.double(), x, rtol=1e-4, atol=1e-4).all(1)
        return _far(drawn.log_weight[same], expected[same], 10 * self._slack(drawn.x))

    def _slack(self, x: Tensor) -> float:
        return (
            (2e-5 if x.dtype == torch.float32 else 1e-10) * max(1.0, self.trial.tolerance / 1e-5) * self.model.features
        )


def _far(found: Tensor, expected: Tensor, slack: float) -> int:
    """How many differ by more than the slack, relative above 1; where one is infinite the other must be."""
    found = found.double()
    close = torch.isclose(found, expected.double(), rtol=slack, atol=slack, equal_nan=False)
    return int((~close).sum())


def _place(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "made_fast" in frame.filename]
    return f"{frames[-1].filename.rsplit('made_fast', 1)[-1]}:{frames[-1].lineno}" if frames else "?"
