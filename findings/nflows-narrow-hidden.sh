#!/usr/bin/env bash
# nflows 0.14: in a MADE with fewer hidden units than variables the late variables silently see only the first few.
# Hidden units get the degrees 1, 2, ... in turn, so with 4 of them no unit reads past variable 4, and variables 5 to
# 10 all depend on the same four, at any depth. The model stays a proper density and trains without a warning; it just
# cannot represent what the late variables have to do with each other: of 100 variables with 50 hidden units, the last
# 49 see only the first 50.
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
from nflows.transforms.made import MADE

torch.manual_seed(0)


def seen(hidden):
    made = MADE(10, hidden, num_blocks=3, activation=torch.tanh).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: made(x[None])[0], torch.randn(10, dtype=torch.float64))
    return [(row != 0).nonzero().flatten().add(1).tolist() for row in jacobian]


narrow, wide = seen(4), seen(9)
print(f"nflows {version('nflows')}, torch {torch.__version__}")
for variable in range(1, 11):
    print(f"variable {variable:2}: sees {narrow[variable - 1]} with 4 hidden units")
first = [list(range(1, variable)) for variable in range(1, 11)]
if not (wide == first and narrow == [row[:4] for row in first]):
    raise SystemExit("changed: the late variables see more than as many as there are hidden units")
PYTHON
