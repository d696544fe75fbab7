"""Tables: a data frame's columns as variables of a model, with missing cells, imputation and queries by names."""

from made_fast.tables.choosing import Column
from made_fast.tables.schema import Schema
from made_fast.tables.table import Table

__all__ = [
    "Column",
    "Schema",
    "Table",
]
