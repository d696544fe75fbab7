#!/usr/bin/env bash
# torch 2.13.0 on processors with AVX-512: gelu of float32 has two values for the same number. Alone, gelu(inf) is inf and
# gelu(3e38) is 3e38; among 64 of them, which oneDNN computes, they are nan and inf. float64, tanh's approximation and the
# formula with erf are right. A hidden unit that overflows therefore shows or hides by the number of rows in the batch.
# With ONEDNN_MAX_CPU_ISA=AVX2, and on processors that have no more, all are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import torch
import torch.nn.functional as F

print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
seen = {}
for value in (float("inf"), 3e38):
    for count in (1, 64):
        seen[value, count] = F.gelu(torch.full((count,), value))[0].item()
        print(f"gelu({value:g}), {count} of them: {seen[value, count]:g}")
alone, many = ([seen[value, count] for value in (float("inf"), 3e38)] for count in (1, 64))
if torch.backends.cpu.get_cpu_capability() != "AVX512":
    print("this processor has no AVX-512: nothing to see")
elif not (alone[0] == float("inf") and 2e38 < alone[1] < 4e38 and many[0] != many[0] and many[1] == float("inf")):
    raise SystemExit("changed: gelu of many numbers is that of one")
PYTHON
