"""``made-fast demo --table``: a table with hidden cells is learned, asked and filled, and what is said of it is checked."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from made_fast.cli.options import say

if TYPE_CHECKING:
    import numpy as np

    from made_fast.tables.table import Table

    Rows = dict[str, np.ndarray[Any, Any]]

__all__ = ["run_table"]

_HIDDEN = "bmi"
_QUERY = "progression > 200 and sex = 'a'"
_DRAWS = 50_000  # rows that are drawn to be counted
_ERRORS = (
    5.0  # standard errors that two estimates of one probability may lie apart: by chance once in two million times
)
_EACH = 50  # rows drawn for each that has a hidden cell


def run_table(seed: int) -> int:
    """Learns, asks and fills; 1 if the answers contradict each other."""
    import numpy as np

    from made_fast.datasets.patients import load_patients
    from made_fast.tables.table import Table

    whole = load_patients()
    hidden = np.random.default_rng(seed).random(len(whole[_HIDDEN])) < 0.1
    rows = {**whole, _HIDDEN: np.where(hidden, np.nan, whole[_HIDDEN])}
    count = int(hidden.sum())
    say(f"{len(hidden)} diabetes patients of scikit-learn; {count} of their body mass indices are hidden")
    start = time.monotonic()
    small: dict[str, Any] = {
        "hidden_features": (64, 64),
        "components": 2,
        "floor": 0.1,
        "batch_size": 32,
        "learning_rate": 2e-3,
    }
    table = Table.fit(rows, epochs=200, patience=20, max_minutes=0.75, **small, seed=seed, progress=True)
    assert table.history is not None
    say(f"{table}\n{len(table.history.epochs)} epochs in {time.monotonic() - start:.1f} s")
    say(f"validation NLL {table.history.best.valid_nll:.3f} nats a patient")
    return 0 if all([_asked(table, whole, seed), _filled(table, whole, hidden, seed)]) else 1


def _asked(table: Table, whole: Rows, seed: int) -> bool:
    """Asks for a probability, and counts drawn rows; False if the two contradict each other."""
    answer = table.probability(_QUERY, 20_000, seed=seed)
    drawn = table.sample(_DRAWS, seed=seed + 1)
    share, patients = (float(((each["progression"] > 200) & (each["sex"] == "a")).mean()) for each in (drawn, whole))
    say(f"{_QUERY}: {answer}; of the patients {patients:.4f}")
    value, error = float(answer.value), float(answer.standard_error)
    apart = abs(share - value) / math.sqrt(error**2 + value * (1 - value) / _DRAWS)
    say(f"of {_DRAWS:,} rows that were drawn {share:.4f}, {apart:.1f} standard errors from the answer")
    if apart > _ERRORS:
        say("that is too far: the answer contradicts the samples")
    return apart <= _ERRORS


def _filled(table: Table, whole: Rows, hidden: np.ndarray[Any, Any], seed: int) -> bool:
    """Fills the hidden cells and compares them with what was hidden; False if a cell that was known has changed."""
    import numpy as np

    given = {name: np.where(hidden, np.nan, values) if name == _HIDDEN else values for name, values in whole.items()}
    given = {name: values[hidden] for name, values in given.items()}
    filled = table.sample(_EACH, given=given, candidates=200, seed=seed)
    same = [np.array_equal(filled[name], given[name].repeat(_EACH)) for name in whole if name != _HIDDEN]
    draws, truth = filled[_HIDDEN].reshape(-1, _EACH), whole[_HIDDEN][hidden]
    low, high = np.quantile(draws[0], [0.1, 0.9])
    say(f"first hidden {_HIDDEN}: {truth[0]:.1f}; filled with {draws[0].mean():.1f}, mostly {low:.1f} .. {high:.1f}")
    errors = {"filled": draws.mean(1) - truth, "the mean of the others": whole[_HIDDEN][~hidden].mean() - truth}
    found = ", ".join(f"{name} {np.abs(each).mean():.2f}" for name, each in errors.items())
    say(f"mean distance from the {len(truth)} hidden values: {found}")
    if not all(same) or not np.isfinite(draws).all():
        say("a cell that was known has changed, or one was left empty")
        return False
    return True
