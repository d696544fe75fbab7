"""The estimator of scikit-learn: its own checks, pipelines, searches, frames."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from made_fast.tables import Table
from made_fast.tables.estimator import TableDensity

QUICK: dict[str, Any] = {"epochs": 2, "hidden_features": (8,), "components": 2, "random_state": 0}


@parametrize_with_checks([TableDensity(**QUICK)])
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_pipelines_and_searches() -> None:
    """The score tells a model that was trained from one that was not."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)) @ np.array([[1.0, 0.9, 0.8], [0.0, 0.2, 0.5], [0.0, 0.0, 0.3]]) + 5
    density = TableDensity(hidden_features=(16,), components=1, learning_rate=0.02, random_state=0)
    search = GridSearchCV(make_pipeline(StandardScaler(), density), {"tabledensity__epochs": [1, 30]}, cv=3).fit(x)
    assert search.best_params_ == {"tabledensity__epochs": 30}
    best = search.best_estimator_
    assert best.score(x) == pytest.approx(best.score_samples(x).mean(), abs=1e-6)
    drawn = best[-1].sample(2000, random_state=1)
    scaled = best[0].transform(x)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(scaled.T), atol=0.25)


def test_frames_and_holes() -> None:
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {"city": rng.choice(["Rome", "Oslo"], 200), "income": rng.normal(size=200), "age": range(200)}
    )
    frame.loc[::5, "income"] = None
    fitted = TableDensity(columns={"age": "real"}, **QUICK).fit(frame)
    assert isinstance(fitted.table_, Table)
    assert fitted.feature_names_in_.tolist() == list(frame)
    drawn = fitted.sample(30, random_state=2)
    assert drawn.dtypes.equals(frame.astype({"age": float}).dtypes)
    assert drawn.equals(fitted.sample(30, random_state=2))
    assert np.isfinite(clone(fitted).fit(frame).score(frame))
    with pytest.raises(ValueError, match="column 'city' has a value that was not seen"):
        fitted.score(frame.assign(city="Lima"))
    x = np.where(rng.random((100, 2)) < 0.2, np.nan, rng.normal(size=(100, 2)))
    holes = TableDensity(**QUICK).fit(x)
    assert np.isfinite(holes.score_samples(x)).all()
    assert np.isnan(holes.sample(500, random_state=0)).any()
