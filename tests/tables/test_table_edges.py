"""What ordinary frames have at their edges: dtypes without holes, few floats, time zones, wide numbers."""

from typing import Any

import numpy as np
import pytest
from table_cases import table_of

from made_fast.tables import Column

GOOD = np.arange(600) % 3


@pytest.mark.parametrize(("plain", "nullable"), [("bool", "boolean"), ("int64", "Int64"), ("uint8", "UInt8")])
def test_numpys_dtypes_become_nullable_where_cells_may_be_missing(plain: str, nullable: str) -> None:
    pandas = pytest.importorskip("pandas")
    values = np.arange(600) % (2 if plain == "bool" else 9)
    table = table_of(pandas.DataFrame({"c": values.astype(plain), "z": GOOD}), {"c": Column(missing=True)})
    drawn = table.sample(4000, seed=0)
    assert str(drawn.c.dtype) == nullable and str(drawn.z.dtype) == "int64"
    answer = table.probability("c is null", 4000, seed=0)
    assert 0.01 < float(answer.value) < 0.99
    assert drawn.c.isna().mean() == pytest.approx(float(answer.value), abs=0.05)
    assert table.log_prob(drawn).isfinite().all()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_reserved_category_is_one_of_the_dtype_too(library: str) -> None:
    module = pytest.importorskip(library)
    letters, values = list("abcdef"), list("abcdef") * 100
    series = module.Categorical(values) if library == "pandas" else module.Series(values).cast(module.Enum(letters))
    frame = module.DataFrame({"c": series, "z": GOOD})
    table = table_of(frame, {"c": Column(values=["a"], other="rest")})
    drawn = table.sample(1000, seed=0)
    categories = drawn["c"].cat.categories if library == "pandas" else drawn["c"].dtype.categories
    assert list(categories) == [*letters, "rest"]
    share = (drawn["c"] == "rest").mean()
    assert share == pytest.approx(float(table.probability("c = 'rest'", 2000, seed=0).value), abs=0.08)
    assert share + (drawn["c"] == "a").mean() == 1


def test_queries_of_whole_numbers_that_are_taken_for_real_ones_agree_with_samples() -> None:
    pandas: Any = pytest.importorskip("pandas")
    counts = np.random.default_rng(0).poisson(4, 2000)
    table = table_of(pandas.DataFrame({"z": np.arange(2000) % 3, "x": counts}), {"x": "real"})
    drawn = table.sample(20_000, seed=0)
    assert drawn.x.dtype == np.float64
    assert (drawn.x <= 4).mean() == pytest.approx(float(table.probability("x <= 4", 4000, seed=0).value), abs=0.03)
