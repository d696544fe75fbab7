"""Handwritten digits: train, look at samples, complete digits of which the upper half is known.

    python examples/mnist.py                                  # 8x8 digits that come with scikit-learn, about a minute
    python examples/mnist.py --data binarized_mnist.npz       # 28x28, see made_fast.datasets for the layout of the file

Pictures are written to the folder --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from made_fast import MADE
from made_fast.datasets.npz import load
from made_fast.datasets.pictures import image_grid, write_png
from made_fast.training.fitting import evaluate, fit


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs the example and returns the figures that it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits, or a .npz file (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the pictures (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="a small network and few epochs, for a look at the program"
    )
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)

    # Rows of 0 and 1, one for each pixel, in three parts: for training, for choosing, for the figure at the end.
    data = load(arguments.data)
    if data.image_shape is None:
        raise SystemExit(f"--data must hold square images, got rows of {data.features}")

    # The order is the natural one, line by line from the top. Direct connections let each pixel see its neighbours.
    torch.manual_seed(0)
    hidden = (64,) if arguments.quick else (500, 500)
    model = MADE(data.features, hidden, direct=True, activation="silu")

    # Maximum likelihood. What is returned are the averaged weights that did best on the validation rows.
    epochs = 20 if arguments.quick else 60
    history = fit(model, data.train, data.valid, epochs=epochs, learning_rate=3e-3, input_dropout=0.02)
    nats, half_width = evaluate(model, data.test)
    print(f"best epoch {history.best.number}; test -log p: {nats:.2f} +- {half_width:.2f} nats a row")

    # A whole sample costs about half the arithmetic of one dense pass; the slow loop would take one pass for each pixel.
    samples = model.sample(100, seed=0, dtype=torch.uint8)
    picture = image_grid(samples, data.image_shape, columns=10, scale=4)
    write_png(arguments.out / "samples.png", {"samples": picture})

    # The upper half of some test rows is given. It comes first in the order, so the completions are exact draws from
    # p(lower half | upper half): all log-weights of a row are equal. Nine completions of each digit.
    truth = data.test[:6].float()
    observed = torch.arange(data.features) < data.features // 2
    completed = model.sample(9, seed=1, given=truth, observed=observed)
    shown = torch.cat([truth[:, None], completed.x], dim=1).flatten(0, 1).to(torch.uint8)
    write_png(
        arguments.out / "completed.png",
        {"first column: the digit": image_grid(shown, data.image_shape, columns=10, scale=4)},
    )

    # How probable each upper half is, with the lower half summed out. Exact here, so its error is 0.
    upper = model.log_marginal(truth, observed, 2, seed=2)
    print(
        f"-log p of the upper halves: {-upper.value.mean():.2f} nats, standard error {upper.standard_error.max():.1g}"
    )
    print(f"pictures: {arguments.out / 'samples.png'}, {arguments.out / 'completed.png'}")
    return {
        "nats": nats,
        "spread of log-weights": float((completed.log_weight - completed.log_weight[:, :1]).abs().max()),
        "changed": float((completed.x != truth[:, None])[..., observed].sum()),
    }


if __name__ == "__main__":
    main()
