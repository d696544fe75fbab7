"""What a network makes of its parameters, and the way back; ``made_fast.layers.heads`` is the definition.

Arrays are flat, with the rows of a block in sequence: ``kept`` has the parameters and x of a network, ``room`` the totals of
the rows and gradients. Numbers beside them say where in them something begins, ``stride`` how far it is to the next unit.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

from made_fast.backends.numba.jit import jit_part
from made_fast.backends.numba.networks.memory import copy
from made_fast.backends.numba.special import softplus
from made_fast.outputs.rules import LOG_SQRT_2_PI
from made_fast.programs.wiring import HEADS

__all__ = ["PARAMETERS", "head_backward", "head_forward", "makes_z"]

PARAMETERS, AFFINE, FLOW, BERNOULLI, NORMAL, SPIN, CATEGORICAL, SOFTPLUS_SCALE, SOFTCLIP_SCALE = range(len(HEADS))
MOST = 20.0  # beyond it torch takes the argument of a softplus itself


@jit_part
def makes_z(head):
    """Whether z is handed over, beside a total."""
    return head in (AFFINE, SOFTPLUS_SCALE, SOFTCLIP_SCALE)


@jit_part
def head_forward(head, is_last, floor, categories, features, width, stride, kept, params, x, room, total, to, z, order):
    """Adds what all variables give to the total, and writes z.

    Args:
        head: its number.
        is_last: of the networks.
        floor: of scales.
        categories: of each variable the number.
        features, width: D and the number of parameters.
        stride, kept, params, x, room, total: see above.
        to, z, order: an array, where z begins in it, and the places of the variables there.
    """
    if head == CATEGORICAL:
        _categories_forward(categories, stride, kept, params, x, room, total)
    elif head in (BERNOULLI, SPIN):
        for d in range(width):
            _bits_forward(head, stride, kept, params + d * stride, x + d * stride, room, total)
    else:
        has_density = head == NORMAL or (head == FLOW and is_last)
        for d in range(width // 2):
            pair, value, at = params + 2 * d * stride, x + d * stride, z + order[d] * stride
            if head in (SOFTPLUS_SCALE, SOFTCLIP_SCALE):
                _multiplied_forward(head, floor, stride, kept, pair, value, room, total, to, at)
            else:
                _divided_forward(floor, has_density, stride, kept, pair, value, room, total, to, at)
        for d in range(width // 2, features):  # passed on
            copy(kept, x + d * stride, stride, to, z + order[d] * stride)


@jit_part
def head_backward(
    head, is_last, floor, categories, features, width, stride, kept, params, x, room, total, z, grad, grad_x
):
    """Writes the gradients of the parameters, and what x gets beside them.

    Args:
        head, is_last, floor, categories, features, width, stride, kept, params, x: see ``head_forward``.
        room: with gradients: of the total, of z, of the parameters and of x.
        total, z, grad, grad_x: where those begin.
    """
    if head == CATEGORICAL:
        _categories_backward(categories, stride, kept, params, x, room, total, grad, grad_x)
    elif head in (BERNOULLI, SPIN):
        for d in range(width):
            at = d * stride
            _bits_backward(head, stride, kept, params + at, x + at, room, total, grad + at, grad_x + at)
    else:
        has_density = head == NORMAL or (head == FLOW and is_last)
        for d in range(width // 2):
            at = d * stride
            pair, to_pair = params + 2 * at, grad + 2 * at
            if head in (SOFTPLUS_SCALE, SOFTCLIP_SCALE):
                _multiplied_backward(head, floor, stride, kept, pair, x + at, room, total, z + at, to_pair, grad_x + at)
            else:
                _divided_backward(
                    floor, has_density, stride, kept, pair, x + at, room, total, z + at, to_pair, grad_x + at
                )
        passed = width // 2 * stride
        copy(room, z + passed, features * stride - passed, room, grad_x + passed)


@jit_part
def _sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


@jit_part
def _soft(raw):
    """As torch has it."""
    return float(raw) if raw > MOST else softplus(raw)


@jit_part
def _scale_of(head, floor, raw):
    """A scale, its logarithm, and the slope of that."""
    if head == SOFTCLIP_SCALE:
        clip = 1.0 / (1.0 + abs(raw / math.log(floor)))
        return math.exp(raw * clip), raw * clip, clip * clip
    scale = _soft(raw) + floor
    return scale, math.log(scale), (1.0 if raw > MOST else _sigmoid(raw)) / scale


@jit_part
def _bits_forward(head, stride, kept, logit, x, room, total):
    for i in range(stride):
        sign = float(kept[x + i]) if head == SPIN else 2.0 * kept[x + i] - 1.0
        room[total + i] -= softplus(-sign * kept[logit + i])


@jit_part
def _bits_backward(head, stride, kept, logit, x, room, total, grad, grad_x):
    step = 1.0 if head == SPIN else 2.0
    for i in range(stride):
        sign = step * kept[x + i] - (step - 1.0)
        slope = room[total + i] * _sigmoid(-sign * kept[logit + i])
        room[grad + i] = slope * sign
        room[grad_x + i] = step * slope * kept[logit + i]


@jit_part
def _divided_forward(floor, has_density, stride, kept, pair, x, room, total, to, at):
    """z = (x - shift) / scale; without a z that is wanted it is still written."""
    for i in range(stride):
        scale = _soft(kept[pair + stride + i]) + floor
        z = (kept[x + i] - kept[pair + i]) / scale
        to[at + i] = z
        room[total + i] -= math.log(scale) + (0.5 * z * z + LOG_SQRT_2_PI if has_density else 0.0)


@jit_part
def _divided_backward(floor, has_density, stride, kept, pair, x, room, total, at, grad, grad_x):
    for i in range(stride):
        raw = kept[pair + stride + i]
        scale = _soft(raw) + floor
        z, outer = (kept[x + i] - kept[pair + i]) / scale, room[total + i]
        to_z = -outer * z if has_density else float(room[at + i])
        slope = 1.0 if raw > MOST else _sigmoid(raw)
        room[grad + i] = -to_z / scale
        room[grad + stride + i] = -(to_z * z + outer) / scale * slope
        room[grad_x + i] = to_z / scale


@jit_part
def _multiplied_forward(head, floor, stride, kept, pair, x, room, total, to, at):
    """z = x * scale + shift, the scale first or last."""
    raw, shift = (pair, pair + stride) if head == SOFTPLUS_SCALE else (pair + stride, pair)
    for i in range(stride):
        scale, log_scale, _ = _scale_of(head, floor, kept[raw + i])
        to[at + i] = kept[x + i] * scale + kept[shift + i]
        room[total + i] += log_scale


@jit_part
def _multiplied_backward(head, floor, stride, kept, pair, x, room, total, at, grad, grad_x):
    is_first = head == SOFTPLUS_SCALE
    raw, to_raw, to_shift = (pair, grad, grad + stride) if is_first else (pair + stride, grad + stride, grad)
    for i in range(stride):
        scale, _, slope = _scale_of(head, floor, kept[raw + i])
        to_z = room[at + i]
        room[to_raw + i] = (to_z * scale * kept[x + i] + room[total + i]) * slope
        room[to_shift + i] = to_z
        room[grad_x + i] = to_z * scale


@jit_part
def _log_sum(count, stride, kept, logit):
    """The greatest logit of one row, and log of the sum of exp of what each is above it."""
    most, total = kept[logit], 0.0
    for k in range(1, count):
        most = max(most, kept[logit + k * stride])
    for k in range(count):
        total += math.exp(kept[logit + k * stride] - most)
    return most, math.log(total)


@jit_part
def _categories_forward(categories, stride, kept, params, x, room, total):
    """The log-probability of one-hot x: the sum of x (logit - log of the sum of exp)."""
    at = 0
    for d in range(len(categories)):
        for i in range(stride):
            most, log_sum = _log_sum(categories[d], stride, kept, params + at + i)
            for k in range(categories[d]):
                unit = kept[x + at + k * stride + i]
                if unit != 0:
                    room[total + i] += unit * ((kept[params + at + k * stride + i] - most) - log_sum)
        at += categories[d] * stride


@jit_part
def _categories_backward(categories, stride, kept, params, x, room, total, grad, grad_x):
    at = 0
    for d in range(len(categories)):
        for i in range(stride):
            most, log_sum = _log_sum(categories[d], stride, kept, params + at + i)
            units, outer = 0.0, room[total + i]
            for k in range(categories[d]):
                units += kept[x + at + k * stride + i]
            for k in range(categories[d]):
                number = at + k * stride + i
                found = (kept[params + number] - most) - log_sum
                room[grad + number] = outer * (kept[x + number] - units * math.exp(found))
                room[grad_x + number] = outer * found
        at += categories[d] * stride
