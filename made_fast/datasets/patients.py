"""The table of diabetes patients that scikit-learn ships: categories, whole and real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["load_patients"]


def load_patients() -> dict[str, npt.NDArray[Any]]:
    """442 diabetes patients: their sex, age, body mass index, blood pressure and glucose at the beginning, and what became.

    Returns:
        By name arrays (442,): ``sex``, text ``a`` and ``b``, since the source does not say which is which; ``age`` in years
        and ``glucose`` in mg/dl, whole numbers; ``bmi`` in kg/m², ``pressure`` in mmHg and ``triglycerides``, a logarithm,
        real numbers; ``progression`` of the disease after a year, a whole number. The rows are in an order by chance,
        always the same.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.

    Source: Efron, Hastie, Johnstone, Tibshirani, "Least Angle Regression", Annals of Statistics 2004.
    """
    try:
        from sklearn.datasets import load_diabetes
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the table of patients needs scikit-learn: pip install 'made_fast[demo]'") from error
    found = load_diabetes(scaled=False)
    order = np.random.RandomState(0).permutation(len(found.data))
    column = dict(zip(found.feature_names, np.asarray(found.data)[order].T, strict=True))
    return {
        "sex": np.where(column["sex"] == 1, "a", "b"),
        "age": column["age"].astype(np.int64),
        "bmi": column["bmi"],
        "pressure": column["bp"],
        "triglycerides": column["s5"],
        "glucose": column["s6"].astype(np.int64),
        "progression": np.asarray(found.target)[order].astype(np.int64),
    }
