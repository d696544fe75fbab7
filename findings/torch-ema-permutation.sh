#!/usr/bin/env bash
# torch 2.13.0: AveragedModel(use_buffers=True) with get_ema_multi_avg_fn changes integer buffers even when every
# model that it averages holds the same: 3 * 0.9 + 3 * 0.1 comes out a little below 3 and is cut to 2. An nflows 0.14
# flow keeps its permutation and the degrees of its masks in such buffers. After one update of the average with the
# same, untrained flow the permutation names one variable twice and drops another, and log_prob is that of another,
# wrong density.
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
from nflows.distributions.normal import StandardNormal
from nflows.flows import Flow
from nflows.transforms import CompositeTransform, MaskedAffineAutoregressiveTransform, RandomPermutation
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.manual_seed(0)
parts = [RandomPermutation(5), MaskedAffineAutoregressiveTransform(5, 16)]
flow = Flow(CompositeTransform(parts), StandardNormal([5])).eval()
average = AveragedModel(flow, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
for _ in range(2):  # the first call copies, the second averages
    average.update_parameters(flow)

before = flow._transform._transforms[0]._permutation
after = average.module._transform._transforms[0]._permutation
x = torch.randn(4, 5)
with torch.no_grad():
    apart = (flow.log_prob(x) - average.module.log_prob(x)).abs().max().item()
weights = zip(flow.parameters(), average.module.parameters(), strict=True)
same = all(torch.allclose(a, b, atol=1e-6) for a, b in weights)
print(f"torch {torch.__version__}, nflows {version('nflows')}")
print("permutation of the flow:            ", before.tolist())
print("permutation of the average:         ", after.tolist())
print("weights the same:                   ", same)
print(f"largest difference of log_prob:      {apart:.2f}")
if not (same and sorted(before.tolist()) == list(range(5)) != sorted(after.tolist()) and apart > 0.01):
    raise SystemExit("changed: the average of equal integer buffers is that buffer again")
PYTHON
