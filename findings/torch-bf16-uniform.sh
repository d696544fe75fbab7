#!/usr/bin/env bash
# torch 2.13.0: torch.rand(..., dtype=torch.bfloat16) on a CPU is exactly 0 once in 512 draws. It rounds a number of
# float precision to bfloat16, and what rounds up to 1 is replaced by 0, although the numbers beside 0 are otherwise
# very fine. So "u < p" with p = 1/1024 is true three times as often as it should be, and -log(u) is infinite once in
# 512. A binary sampler that draws in the type of its probabilities sees rare events many times too often;
# torch.bernoulli does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet numpy==2.4.6
venv/bin/python - <<'PYTHON'
import torch

torch.manual_seed(0)
n = 1 << 23
u = torch.rand(n, dtype=torch.bfloat16)
zeros = (u == 0).double().mean().item()
smallest = u[u > 0].min().item()
p = torch.full((n,), 1 / 1024, dtype=torch.bfloat16)
compared = (u < p).double().mean().item()
drawn = torch.bernoulli(p).double().mean().item()
print(f"torch {torch.__version__}")
print(f"zeros: one in {1 / zeros:.0f}; smallest number above 0: {smallest:.1e}; largest: {u.max().item()}")
print(f"p = 1/1024 as bfloat16: rate of u < p is {compared * 1024:.2f} p, of torch.bernoulli {drawn * 1024:.2f} p")
if not (500 < 1 / zeros < 525 and smallest < 1e-5 and 2.9 < compared * 1024 < 3.1 and 0.95 < drawn * 1024 < 1.05):
    raise SystemExit("changed: zeros are no longer one in 512")
PYTHON
