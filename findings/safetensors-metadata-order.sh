#!/usr/bin/env bash
# safetensors 0.8.0: two files of the same tensors and the same metadata are not the same bytes. The entries of the
# metadata are written in an order that changes from call to call, also within one process, while the tensors are sorted.
# Who compares models by the hash of their file, caches or deduplicates them, or checks that a resumed training gives the
# file of an uninterrupted one, sees differences where there are none; with two entries every other time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet safetensors==0.8.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import hashlib

import numpy as np
import safetensors
from safetensors.numpy import save

print("safetensors", safetensors.__version__)
tensors = {"weight": np.zeros((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
counts = []
for names in ((), ("a",), ("a", "b"), ("a", "b", "c", "d")):
    metadata = {name: name for name in names}
    files = {hashlib.sha256(save(tensors, metadata)).hexdigest() for _ in range(200)}
    counts.append(len(files))
    print(f"{len(names)} entries of metadata: {len(files)} different files of 200")
if not (counts[:2] == [1, 1] and counts[2] == 2 and counts[3] > 10):
    raise SystemExit("changed: equal tensors and metadata give equal files")
PYTHON
