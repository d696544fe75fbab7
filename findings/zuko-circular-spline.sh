#!/usr/bin/env bash
# zuko 1.6.0: the density of NCSF, the flow for angles, jumps where a circle closes. The spline of each variable is
# periodic, but the network that gives its parameters reads the earlier angles as plain numbers, so pi and -pi, which
# are the same angle, give the later variables different densities. Only the last variable of the order (or a flow of
# one variable) is free of it. Models of torsions or directions get a seam at +-pi; an embedding by sine and cosine
# before the network would avoid it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet zuko==1.6.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import math
from importlib.metadata import version

import torch
import zuko

torch.manual_seed(0)
flow = zuko.flows.NCSF(features=3, transforms=1).double()
x = torch.rand(64, 3, dtype=torch.float64) * 6 - 3
jumps = []
for variable in range(3):
    left, right = x.clone(), x.clone()
    left[:, variable] = -math.pi + 1e-6
    right[:, variable] = math.pi - 1e-6
    with torch.no_grad():
        jumps.append((flow().log_prob(left) - flow().log_prob(right)).abs().max().item())
print(f"zuko {version('zuko')}, torch {torch.__version__}")
print("largest jump of log_prob from pi to -pi, by variable:", [f"{jump:.1e}" for jump in jumps])
if not (min(jumps[:2]) > 0.05 and jumps[2] < 1e-4):
    raise SystemExit("changed: the seam at pi is gone")
PYTHON
