#!/usr/bin/env bash
# nflows 0.14: Flow.sample(n, context, batch_size=b) returns (contexts * n / b, b, variables) where it documents, and
# without batch_size returns, (contexts, n, variables). The batches are joined along the first axis, so row 1 of a
# result for 4 contexts is still of context 1, but row 4 is of context 0 again. If b does not divide n, it raises.
# Posterior samplers set batch_size to save memory; code that only looks at samples[i] mixes up its conditions.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet nflows==0.14 numpy==2.4.6
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import torch
from nflows.distributions.normal import ConditionalDiagonalNormal
from nflows.flows import Flow
from nflows.transforms import IdentityTransform

torch.manual_seed(0)
# Each sample lies within 0.1 of its context, so that a sample tells which context it was drawn for.
flow = Flow(IdentityTransform(), ConditionalDiagonalNormal([1], lambda c: torch.cat([c, torch.full_like(c, -5.0)], 1)))
context = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
whole = flow.sample(10, context)
parts = flow.sample(10, context, batch_size=5)
of = parts.mean(dim=(1, 2)).div(10).round().int().tolist()
try:
    flow.sample(10, context, batch_size=3)
    uneven = "no error"
except RuntimeError as error:
    uneven = str(error).splitlines()[0]
print(f"nflows {version('nflows')}, torch {torch.__version__}")
print("10 samples for each of 4 contexts:", tuple(whole.shape))
print("with batch_size=5:                ", tuple(parts.shape), "rows belong to contexts", of)
print("with batch_size=3:                ", uneven)
as_written = tuple(whole.shape) == (4, 10, 1) and tuple(parts.shape) == (8, 5, 1) and of == [0, 1, 2, 3, 0, 1, 2, 3]
if not (as_written and uneven != "no error"):
    raise SystemExit("changed: batch_size no longer changes the shape of the samples")
PYTHON
