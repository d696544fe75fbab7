"""Orders, degrees and the one rule that makes every mask; the masks of an ensemble; what of a mask can be skipped."""

from made_fast.masks.degrees import (
    ORDERS,
    connectivity,
    hidden_degrees,
    input_degrees,
    layer_degrees,
    make_order,
    output_degrees,
    rank_of,
    whole_mask,
)
from made_fast.masks.mask_set import EVALUATION_MASKS, SHUFFLES, MaskSet, check_degrees, check_orders, masks_of_rows
from made_fast.masks.plan import MaskPlan, MaskSide, plan_from_degrees, plan_from_mask
from made_fast.masks.plan_cache import find_plan, mask_digest, mask_key

__all__ = [
    "EVALUATION_MASKS",
    "ORDERS",
    "SHUFFLES",
    "MaskPlan",
    "MaskSet",
    "MaskSide",
    "check_degrees",
    "check_orders",
    "connectivity",
    "find_plan",
    "hidden_degrees",
    "input_degrees",
    "layer_degrees",
    "make_order",
    "mask_digest",
    "mask_key",
    "masks_of_rows",
    "output_degrees",
    "plan_from_degrees",
    "plan_from_mask",
    "rank_of",
    "whole_mask",
]
