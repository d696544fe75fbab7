"""Arguments of users, checked in the words of all our messages: the name, what was expected, what was found.

One rule for all: what is unambiguous is converted, everything else refused by a ValueError. Numbers may come from Python,
numpy or torch, and tensors as arrays or as sequences of numbers too; flags and text are no numbers. A real number may be
rounded to the dtype of a model, a whole number must fit into it.
"""

from made_fast.arguments.numbers import (
    MOST_ROWS,
    MOST_SEED,
    described,
    flag,
    number_or_numbers,
    one_of,
    positive_number,
    real_number,
    seed_number,
    shown,
    whole_number,
    whole_numbers,
    why_not_dense,
)
from made_fast.arguments.tensors import (
    context_like,
    finite,
    in_dtype,
    is_finite,
    like_weights,
    tensor_of,
    whole_tensor,
    with_values,
)

__all__ = [
    "MOST_ROWS",
    "MOST_SEED",
    "context_like",
    "described",
    "finite",
    "flag",
    "in_dtype",
    "is_finite",
    "like_weights",
    "number_or_numbers",
    "one_of",
    "positive_number",
    "real_number",
    "seed_number",
    "shown",
    "tensor_of",
    "whole_number",
    "whole_numbers",
    "whole_tensor",
    "why_not_dense",
    "with_values",
]
