"""``TableDensity``: a table as an estimator of scikit-learn, which this module alone needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from made_fast.tables.cells import Array
from made_fast.tables.choosing import Column
from made_fast.tables.schema import Schema
from made_fast.tables.table import Table

__all__ = ["TableDensity"]


class TableDensity(DensityMixin, BaseEstimator):
    """A density of rows by ``Table``, for pipelines and searches of scikit-learn.

    It takes data frames, whose columns are decided as ``Table.fit`` does; and arrays (N, features), whose columns are real
    numbers, named ``x0``, ``x1``, ..., unless ``columns`` says otherwise. Cells that are nan, or missing in a frame, are
    missing ones.

    Args:
        columns, hidden_features, activation, components, floor, epochs, batch_size, learning_rate, weight_decay, patience,
            max_minutes: see ``Table.fit``.
        random_state: of ``fit``; an int for the same fit again.

    Attributes:
        table_: the fitted ``Table``.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    """

    def __init__(
        self,
        columns: Schema | Mapping[str, Any] | None = None,
        *,
        hidden_features: Sequence[int] = (128, 128),
        activation: str = "silu",
        components: int = 5,
        floor: float = 0.01,
        epochs: int = 60,
        batch_size: int | None = None,
        learning_rate: float = 4e-3,
        weight_decay: float = 0.01,
        patience: int = 6,
        max_minutes: float | None = None,
        random_state: Any = None,
    ) -> None:
        self.columns = columns
        self.hidden_features = hidden_features
        self.activation = activation
        self.components = components
        self.floor = floor
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.patience = patience
        self.max_minutes = max_minutes
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: Any, y: object = None) -> TableDensity:
        """Fits a table to rows; ``y`` is not looked at.

        Raises:
            ValueError: the rows are no table; the message names the column.
        """
        frame, columns = self._frame(X, reset=True), self.columns
        if isinstance(X, np.ndarray) or not _is_frame(X):
            named = columns if isinstance(columns, Mapping) else {}
            columns = columns if isinstance(columns, Schema) else {**dict.fromkeys(frame, Column("real")), **named}
        options = {name: value for name, value in self.get_params(deep=False).items() if name != "random_state"}
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.table_ = Table.fit(frame, **{**options, "columns": columns}, seed=seed)
        return self

    def score_samples(self, X: Any) -> Array:
        """The log-probability (N,) of each row in nats; see ``Table.log_prob``."""
        check_is_fitted(self)
        return self.table_.log_prob(self._frame(X, reset=False)).numpy()

    def score(self, X: Any, y: object = None) -> float:
        """The mean log-probability of rows, in nats."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Draws rows: a frame where a frame was fitted, else an array (n_samples, features)."""
        check_is_fitted(self)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        drawn = self.table_.sample(n_samples, seed=seed)
        return drawn if hasattr(self, "feature_names_in_") else np.stack(list(drawn.values()), axis=1)

    def _frame(self, X: Any, *, reset: bool) -> Any:
        """Rows as ``Table`` takes them."""
        if _is_frame(X):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        rows = validate_data(
            self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2 if reset else 1
        )
        return {f"x{place}": rows[:, place] for place in range(rows.shape[1])}


def _is_frame(X: Any) -> bool:
    """Whether it has columns with names."""
    return hasattr(X, "columns") or hasattr(X, "column_names")
