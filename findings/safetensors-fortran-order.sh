#!/usr/bin/env bash
# safetensors 0.8.0 writes a NumPy array in Fortran order as its memory lies, under the shape of the array: what is
# read back has the right shape and type and other values. Such an array is contiguous and dense, as the documentation
# asks. Version 0.7.0 wrote the right values, and safetensors.torch refuses a transposed tensor. A JAX or Keras kernel
# of shape (in, out) transposed for a torch.nn.Linear is just such an array, so a converted masked network is saved as
# a different network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet safetensors==0.8.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load, save

kernel = np.arange(6, dtype=np.float32).reshape(2, 3)  # (in, out)
weight = kernel.T  # (out, in), in Fortran order
back = load(save({"weight": weight}))["weight"]
mended = load(save({"weight": np.ascontiguousarray(weight)}))["weight"]
print(f"safetensors {safetensors.__version__}, numpy {np.__version__}")
print("contiguous in Fortran order:", weight.flags.f_contiguous)
print("saved:", weight.tolist())
print("read: ", back.tolist())
print("read, after ascontiguousarray:", mended.tolist())
as_it_lies = np.array_equal(back, kernel.reshape(3, 2)) and not np.array_equal(back, weight)
if not (as_it_lies and back.shape == weight.shape and np.array_equal(mended, weight)):
    raise SystemExit("changed: an array in Fortran order no longer comes back with its values moved")
PYTHON
