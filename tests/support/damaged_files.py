"""Damaged model files, loaded in bounded memory: ``damaged_files.py SEED FOLDER NUMBER`` prints how many were refused."""

import json
import os
import random
import resource
import struct
import sys
from pathlib import Path
from typing import Any

import torch

from made_fast import MADE
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.kinds import Mixed

MORE_BYTES = 200 << 20  # than the process has when it begins
NESTED = '{"name":"mixed","parts":[['
MIXED = Mixed([Categorical(3, embedding=2), "normal", ("bernoulli", 2)])
MODELS = (
    lambda: MADE(6, (8,)),
    lambda: MADE(6, (8, 8), num_masks=3, context_features=2, mask_conditioning=True),
    lambda: MADE(4, (8, 8), residual=True, direct=True, output=MIXED),
)
OUTPUTS: tuple[Any, ...] = (
    {"name": "mixed", "parts": [["bernoulli", 10**9]]},
    {"name": "mixed", "parts": [[{"name": "mixed", "parts": [["normal", 10**9]]}, 1]] * 6},
    {"name": "categorical", "sizes": 10**12},
    {"name": "categorical", "sizes": 3, "embedding": 10**12},
    {"name": "normal", "floor": [1]},
    {"name": "mixture_of_logistics", "components": 10**9, "levels": 10**12},
    {"name": ["a"]},
)
NUMBERS = (0, 1, 2, -1, 10**3, 10**9, 2**63, 10**40, 1.5, float("inf"), float("nan"))
VALUES: tuple[Any, ...] = (*NUMBERS, *OUTPUTS, None, True, "", "random", [], [1] * 6, [10**9] * 3, {}, "x" * 10000)
TEXTS = (
    "[" * 100000,
    '{"a":' * 50000,
    "1" * 6000,
    "nul",
    '{"output":' + NESTED * 400 + '"bernoulli"' + ",1]]}" * 400 + "}",
)
KINDS = ("F32", "F16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64")
ENTRIES: tuple[Any, ...] = (*KINDS, [0], [0, 0], [10**18], [2**62, 2], [-1], [0, 10**12], None)


def _edited(content: bytes, chance: random.Random) -> bytes:
    """Other arguments, and now and then another dtype, shape or place of a tensor."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    config = json.loads(header["__metadata__"]["config"])
    del header["__metadata__"]["digest"]  # who writes such a file on purpose would write another
    for _ in range(chance.choice([1, 2])):
        config[chance.choice(list(config))] = chance.choice(VALUES)
    header["__metadata__"]["config"] = chance.choice(TEXTS) if chance.random() < 0.1 else json.dumps(config)
    if chance.random() < 0.2:
        entry = header[chance.choice([name for name in header if name != "__metadata__"])]
        entry[chance.choice(list(entry))] = chance.choice(ENTRIES)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _flipped(content: bytes, chance: random.Random) -> bytes:
    """Other bytes, most of them in the header."""
    damaged, size = bytearray(content), 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(chance.choice([1, 2, 8])):
        damaged[chance.randrange(size if chance.random() < 0.6 else len(damaged))] = chance.randrange(256)
    return bytes(damaged)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def _drawn_from(model: MADE) -> None:
    """A file that is loaded must be a model: it draws, unless its weights are no numbers."""
    context = torch.zeros(1, model.context_features).to(model.parameters_layer.weight)
    try:
        model.sample(2, context if model.context_features else None)
    except ValueError as error:
        if "finite" not in str(error):
            raise RuntimeError("a file was loaded from which nothing can be drawn") from error


def main() -> None:
    """See the module."""
    chance, folder, number = random.Random(int(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    whole = []
    for make in MODELS:
        make().save(folder / "model")
        whole.append((folder / "model").read_bytes())
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + MORE_BYTES, now + MORE_BYTES))
    refused = loaded = 0
    for _ in range(number):
        damage = chance.choice([_edited, _edited, _flipped, _cut])
        (folder / "damaged").write_bytes(damage(chance.choice(whole), chance))
        try:
            model = MADE.load(folder / "damaged")
        except (ValueError, OSError):
            refused += 1
        else:
            loaded += 1
            _drawn_from(model)
    print(refused, loaded)


if __name__ == "__main__":
    main()
