"""Variables drawn between blocks: parameters from the table, values to the samples and what is read of them to the table.

This is for every conditional but the one of plain binary samples, which events draw on their tile (drawing/kernel.py). What
is drawn, and how, is decided when a kernel is compiled: CODES has a bit for each conditional that occurs, WIDTH is how many
parameters are read at a time, FEATURES has those of codes.py, OWN are the functions of one's own conditionals.
"""

import triton
import triton.language as tl

from made_fast.backends.triton.codes import (
    ALLOWED,
    BINARY_BITS,
    CATEGORICAL,
    CATEGORICAL_BIT,
    CHOICE_BITS,
    DECODED,
    EMBEDDING,
    GIVEN,
    LOGISTICS,
    LOGISTICS_BIT,
    NORMAL,
    NORMAL_BIT,
    NORMALS,
    NORMALS_BIT,
    ONE_HOT,
    OWN_CODE,
    REAL_BITS,
    SPIN,
)
from made_fast.backends.triton.columns import (
    BOUNDS,
    FLOOR,
    SCALE,
    SHARPNESS,
    SHIFT,
    SPREAD,
    STRETCH,
    VARIABLE_CODE,
    VARIABLE_COMPONENTS,
    VARIABLE_ENCODING,
    VARIABLE_FLAGS,
    VARIABLE_NOISE_STEP,
    VARIABLE_NUM_LOGITS,
    VARIABLE_NUM_PARAMS,
    VARIABLE_NUMBER,
    VARIABLE_NUMBERS,
    VARIABLE_PARAMS,
    VARIABLE_SIZE,
    VARIABLE_TABLE,
    VARIABLE_UNITS,
    VARIABLE_WORDS,
    VARIABLE_X_SLOT,
)
from made_fast.backends.triton.conditionals.allowed import draw_allowed
from made_fast.backends.triton.conditionals.likeliest import likeliest
from made_fast.backends.triton.conditionals.weights import (
    choose,
    chunk_of,
    component_of,
    greatest_logit,
    level_of,
    log_prob_of_component,
    log_prob_of_mixture,
    logit,
    logit_of_tail,
    ndtri_of_tail,
    tail,
    total_weight,
    uniform,
)
from made_fast.backends.triton.functions import softplus

__all__ = ["draw_variables"]


@triton.jit
def draw_variables(first, last, lists, request, place, state, SIZES: tl.constexpr, OUTPUT: tl.constexpr):
    """Draws variables [first, last) of the list for R rows.

    Args:
        first, last: whose parameters are all in the table, stored by threads that met at a barrier since.
        lists: what variables are (words, numbers), the embedding tables.
        request: number of the tile, of all rows, seed, noise row of row 0, the noise rows if they are named, row of the
            request that row 0 is, rows of the request that share conditions, the conditions, how to decode.
        place: the table, the samples, and their number of variables.
        state: log-probabilities and log-weights so far, fp64 (R,), and which rows met a nan.
        OUTPUT: (CODES, WIDTH, FEATURES, LOG_PROB, OWN, NAMED_ROWS).
    """
    SLOTS: tl.constexpr = SIZES[0]
    R: tl.constexpr = SIZES[2]
    NAMED_ROWS: tl.constexpr = OUTPUT[5]
    nats, log_weight, bad = state
    tile, num_rows, seed, first_row, noise_rows, row_offset, rows_per_context, conditions, decoding = request
    table, out, features = place
    zero = tl.minimum(
        first, 0
    )  # which no compiler knows: it would keep what follows in registers throughout all blocks
    r = tl.arange(0, R) + zero
    row = (tl.zeros((R,), dtype=tl.int64) + tile) * R + r
    valid = row < num_rows
    noise_row = tl.load(noise_rows + row, mask=valid, other=0) if NAMED_ROWS else first_row + row
    condition = tl.where(valid, (row_offset + row) // rows_per_context, 0)
    request = (seed, noise_row, row, valid, condition, conditions, decoding)
    place = (table + r * SLOTS, out, features)
    for number in range(first, last):
        nats, log_weight, bad = _draw_variable(number, lists, request, place, (nats, log_weight, bad), OUTPUT)
    return nats, log_weight, bad


@triton.jit
def _draw_variable(number, lists, request, place, state, OUTPUT: tl.constexpr):
    FEATURES: tl.constexpr = OUTPUT[2]
    LOG_PROB: tl.constexpr = OUTPUT[3]
    words, numbers, embeddings = lists
    seed, noise_row, row, valid, condition, conditions, decoding = request
    given, observed, support, bounds, constrained, support_width = conditions
    table, out, features = place
    nats, log_weight, bad = state
    words += number * VARIABLE_WORDS
    kind = (
        tl.load(words + VARIABLE_CODE),
        tl.load(words + VARIABLE_NUM_PARAMS),
        tl.load(words + VARIABLE_NUM_LOGITS),
        tl.load(words + VARIABLE_COMPONENTS),
        tl.load(words + VARIABLE_SIZE),
    )
    numbers += number * VARIABLE_NUMBERS
    floor = tl.load(numbers + FLOOR)
    step, variable = tl.load(words + VARIABLE_NOISE_STEP), tl.load(words + VARIABLE_NUMBER)
    params, noise = table + tl.load(words + VARIABLE_PARAMS), (seed, step, noise_row)
    x, choice, nan = _draw(params, kind, floor, noise, decoding, OUTPUT)
    bad |= nan
    log_mass = tl.zeros_like(nats)
    if ALLOWED & FEATURES:
        if tl.load(constrained + variable) != 0:
            flags = support + condition * support_width + tl.load(words + VARIABLE_FLAGS)
            ends = bounds + (condition * features + variable) * BOUNDS
            x, log_mass = draw_allowed(x, params, kind, floor, noise, choice, flags, ends, OUTPUT)
    if GIVEN & FEATURES:
        known = tl.load(observed + condition * features + variable) != 0
        x = tl.where(known, tl.load(given + condition * features + variable), x)
    if LOG_PROB or (GIVEN & FEATURES) != 0:
        log_prob = _log_prob(x, params, kind, floor, choice, OUTPUT).to(tl.float64)
        if LOG_PROB:
            nats += log_prob
        if GIVEN & FEATURES:
            log_mass = tl.where(known, log_prob, log_mass)
    log_weight += log_mass
    tl.store(out + row * features + variable, x, mask=valid)
    _encode(x, table, words, numbers, embeddings, OUTPUT)
    return nats, log_weight, bad


@triton.jit
def _draw(params, kind, floor, noise, decoding, OUTPUT: tl.constexpr):
    """x (R,), what is known of the choice (greatest logit, total weight), and which parameters are nan."""
    CODES: tl.constexpr = OUTPUT[0]
    WIDTH: tl.constexpr = OUTPUT[1]
    FEATURES: tl.constexpr = OUTPUT[2]
    OWN: tl.constexpr = OUTPUT[4]
    code, num_params, count, components, size = kind
    first = tl.load(params)
    x, greatest, total = tl.zeros_like(first), tl.zeros_like(first), tl.zeros_like(first) + 1.0
    bad = (first != first).to(tl.int32)
    chosen = tl.zeros_like(bad)
    greedy = False
    sharpness, stretch, spread = 1.0, 1.0, 1.0  # of logits, of normals, of logistics
    if DECODED & FEATURES:
        settings, greedy = decoding
        sharpness, stretch = tl.load(settings + SHARPNESS), tl.load(settings + STRETCH)
        spread = tl.load(settings + SPREAD)
    if BINARY_BITS & CODES:
        if code <= SPIN:
            drawn = first * sharpness > logit(uniform(noise, 0))
            if DECODED & FEATURES:
                drawn = tl.where(greedy != 0, first > 0, drawn)
            x = tl.where(drawn, 1.0, tl.where(code == SPIN, -1.0, 0.0))
    if CHOICE_BITS & CODES:
        if count > 0:
            greatest, bad = greatest_logit(params, count, num_params, WIDTH)
            total = total_weight(params, count, greatest, 1.0, WIDTH)
            drawn_from = total
            if DECODED & FEATURES:
                if sharpness != 1.0:
                    drawn_from = total_weight(params, count, greatest, sharpness, WIDTH)
            chosen = choose(params, count, greatest, sharpness, uniform(noise, 0) * drawn_from, WIDTH)
            x = chosen.to(tl.float32)
    if REAL_BITS & CODES:
        if components > 0:
            loc, scale = component_of(params + count, components, chosen, floor)
            bad |= ((loc != loc) | (scale != scale)).to(tl.int32)
            p, upper = tail(uniform(noise, tl.minimum(count, 1)))
            x = loc + scale * stretch * ndtri_of_tail(p, upper)
            if code == LOGISTICS:
                y = loc + scale * spread * logit_of_tail(p, upper)
                x = level_of(y, size)
    if DECODED & FEATURES:
        if greedy != 0:
            x = likeliest(x, params, kind, floor, greatest, total, CODES, WIDTH)
    for place in tl.static_range(len(OWN)):
        if (code == OWN_CODE) & (size == place):
            x = OWN[place](params, noise)
    return x, (greatest, total), bad


@triton.jit
def _log_prob(x, params, kind, floor, choice, OUTPUT: tl.constexpr):
    """log p(x) of the model, (R,); of one's own conditionals the sampler finds it."""
    CODES: tl.constexpr = OUTPUT[0]
    WIDTH: tl.constexpr = OUTPUT[1]
    code, _, count, _, size = kind
    greatest, total = choice
    log_prob = tl.zeros_like(x)
    if BINARY_BITS & CODES:
        if code <= SPIN:
            first = tl.load(params)
            log_prob = -softplus(tl.where(x > 0, -first, first))
    if CATEGORICAL_BIT & CODES:
        if code == CATEGORICAL:
            log_prob = tl.load(params + x.to(tl.int32)) - greatest - tl.log(total)
    if NORMAL_BIT & CODES:
        if code == NORMAL:
            loc, scale = component_of(params, 1, 0, floor)
            log_prob = log_prob_of_component(x, loc, scale, size, False)
    if NORMALS_BIT & CODES:
        if code == NORMALS:
            log_prob = log_prob_of_mixture(params, x, count, greatest, total, floor, size, False, WIDTH)
    if LOGISTICS_BIT & CODES:
        if code == LOGISTICS:
            log_prob = log_prob_of_mixture(params, x, count, greatest, total, floor, size, True, WIDTH)
    return log_prob


@triton.jit
def _encode(x, table, words, numbers, embeddings, OUTPUT: tl.constexpr):
    """Writes to the table what the network reads of x (R,)."""
    CODES: tl.constexpr = OUTPUT[0]
    WIDTH: tl.constexpr = OUTPUT[1]
    target, encoding = table + tl.load(words + VARIABLE_X_SLOT), tl.load(words + VARIABLE_ENCODING)
    if CATEGORICAL_BIT & CODES:
        units = tl.load(words + VARIABLE_UNITS)
        if encoding == ONE_HOT:
            for first in range(0, units, WIDTH):
                k = (first + tl.arange(0, WIDTH))[None, :]
                tl.store(target[:, None] + k, (x.to(tl.int32)[:, None] == k).to(tl.float32), mask=k < units)
        elif encoding == EMBEDDING:
            row = embeddings + tl.load(words + VARIABLE_TABLE) + x.to(tl.int32) * units
            for first in range(0, units, WIDTH):
                value, k = chunk_of(row, first, units, 0.0, WIDTH)
                tl.store(target[:, None] + k, value, mask=k < units)
        else:
            tl.store(target, x * tl.load(numbers + SCALE) + tl.load(numbers + SHIFT))
    else:
        tl.store(target, x * tl.load(numbers + SCALE) + tl.load(numbers + SHIFT))
