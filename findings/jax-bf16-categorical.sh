#!/usr/bin/env bash
# jax 0.10.2: jax.random.categorical with bfloat16 logits prefers the classes with small numbers. It adds Gumbel noise
# of the type of the logits, which takes only 128 values, and of the many that share the largest value argmax takes
# the first. Of 1,000 equally likely classes the first 100 get more than half of all draws and the last 100 less than
# one in 500. The documentation speaks only of float32 and events rarer than 1e-7; mode="high" or float32 logits help.
# Samplers of autoregressive models in half precision draw tokens, colours or bins by this function.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

classes, draws = 1000, 50_000


def shares(dtype, mode):
    drawn = jax.random.categorical(jax.random.key(0), jnp.zeros(classes, dtype), shape=(draws,), mode=mode)
    counts = np.bincount(np.asarray(drawn), minlength=classes)
    return counts[:100].sum() / draws, counts[-100:].sum() / draws


noise = np.unique(np.asarray(jax.random.gumbel(jax.random.key(0), (1 << 20,), jnp.bfloat16), np.float32))
print(f"jax {jax.__version__}: bfloat16 Gumbel noise takes {len(noise)} values")
seen = {}
for dtype, mode in ((jnp.float32, None), (jnp.bfloat16, None), (jnp.bfloat16, "high")):
    seen[dtype, mode] = shares(dtype, mode)
    name = jnp.dtype(dtype).name
    first, last = seen[dtype, mode]
    print(f"{name}, mode={mode}: first 100 classes {first:.4f}, last 100 {last:.4f} (wanted 0.1)")
first, last = seen[jnp.bfloat16, None]
fair = [abs(share - 0.1) < 0.01 for share in (*seen[jnp.float32, None], *seen[jnp.bfloat16, "high"])]
if not (len(noise) == 128 and first > 0.5 and last < 0.002 and all(fair)):
    raise SystemExit("changed: bfloat16 logits no longer prefer the first classes")
PYTHON
