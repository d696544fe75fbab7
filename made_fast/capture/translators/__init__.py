"""The table of translators, one function for each ATen operation; those of one kind in each file.

A file enters its functions into the table when it is imported, so all of them are imported here.
"""

from made_fast.capture.translators import arithmetic, functions, moves
from made_fast.capture.translators.table import TRANSLATORS, Refusal, Translator, as_symbol, is_symbol, translates

__all__ = [
    "TRANSLATORS",
    "Refusal",
    "Translator",
    "arithmetic",
    "as_symbol",
    "functions",
    "is_symbol",
    "moves",
    "translates",
]
