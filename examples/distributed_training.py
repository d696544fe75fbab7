"""A flow that several processes train together: they share each minibatch, and the curve is that of one process.

    python examples/distributed_training.py
    torchrun --nproc-per-node 2 examples/distributed_training.py

The rows are those of an autoregressive process of first order, whose entropy is known: no model can do better.
"""

from __future__ import annotations

import argparse
import math
import os

import torch
import torch.distributed as dist
from torch import Tensor

from made_fast.flows import MaskedAutoregressiveFlow
from made_fast.training import Epoch, evaluate, fit

FEATURES, CORRELATION = 8, 0.9


def generate(rows: int, seed: int) -> Tensor:
    """(rows, 8): each value is 0.9 times the one before, and noise."""
    noise = torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(seed))
    values = [noise[:, 0]]
    for column in range(1, FEATURES):
        values.append(CORRELATION * values[-1] + math.sqrt(1 - CORRELATION**2) * noise[:, column])
    return torch.stack(values, dim=1)


def entropy() -> float:
    """Of a row, in nats."""
    first = 0.5 * math.log(2 * math.pi * math.e)
    return first * FEATURES + 0.5 * (FEATURES - 1) * math.log(1 - CORRELATION**2)


def say(epoch: Epoch) -> None:
    """Prints an epoch, in one process of all."""
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(f"epoch {epoch.number:2d}  train {epoch.train_nll:.4f}  valid {epoch.valid_nll:.4f} nats", flush=True)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs the example and returns the figures that it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs of training, for a look at the program")
    parser.add_argument("--picture", help="file for a picture of the curve; needs matplotlib")
    arguments = parser.parse_args(argv)
    if "LOCAL_RANK" in os.environ:  # started by torchrun
        dist.init_process_group("gloo")

    train, valid, test = generate(8000, seed=0), generate(1000, seed=1), generate(4000, seed=2)
    torch.manual_seed(0)
    model = MaskedAutoregressiveFlow(FEATURES, transforms=2, hidden_features=(64,))
    epochs = 3 if arguments.quick else 20
    history = fit(model, train, valid, epochs=epochs, learning_rate=3e-3, averaging=0.99, on_epoch=say)

    nats, _ = evaluate(model, test)
    if arguments.picture and os.environ.get("RANK", "0") == "0":
        from made_fast import plots

        axes = plots.training_curve(history)
        axes.axhline(entropy(), color="grey", linestyle=":")
        axes.figure.savefig(arguments.picture)
    print(f"test {nats:.4f} nats a row, entropy {entropy():.4f}")  # in all processes, which have the same weights
    if dist.is_initialized():
        dist.destroy_process_group()
    return {"nats": nats, "entropy": entropy(), "best": history.best.valid_nll}


if __name__ == "__main__":
    main()
