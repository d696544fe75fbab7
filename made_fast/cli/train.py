"""The command ``made-fast train``: fit a model by maximum likelihood, with checkpoints, and report its test figure."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from made_fast.cli.options import add_threads, check_output, count, positive, say, shown

if TYPE_CHECKING:
    from made_fast.training.fitting import Epoch


__all__ = ["EXAMPLE", "TEXT", "add_options", "run"]

TEXT = "Fit a model by maximum likelihood and report its test NLL."
EXAMPLE = """made-fast train digits --out digits.safetensors --hidden 256 256 --direct
  made-fast train binarized_mnist.npz --out mnist.safetensors --direct --max-minutes 20"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train``."""
    parser.add_argument("data", metavar="DATA", help="digits, or a .npz file")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="file to write, .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace MODEL if it is there")
    model = parser.add_argument_group("model")
    model.add_argument("--hidden", type=positive, nargs="*", default=[500, 500], metavar="H", help="hidden widths")
    model.add_argument("--order", default="natural", help="natural, reversed, random, raster or columns")
    model.add_argument("--activation", default="relu", help="relu, elu, silu, tanh, softplus and others")
    model.add_argument("--direct", action="store_true", help="connect inputs to outputs too")
    model.add_argument("--residual", action="store_true", help="hidden layers as residual blocks")
    model.add_argument("--num-masks", type=count, default=1, metavar="N", help="masks of an ensemble; 0: without end")
    kinds = ("order", "connectivity", "both")
    model.add_argument("--shuffle", choices=kinds, default="both", help="what the masks of an ensemble differ in")
    model.add_argument("--mask-conditioning", action="store_true", help="biases that depend on the mask")
    model.add_argument("--seed", type=int, default=0, help="of the weights, a random order, the masks and the training")
    fit = parser.add_argument_group("training")
    fit.add_argument("--epochs", type=positive, default=200, help="stop after so many")
    fit.add_argument("--batch-size", type=positive, default=100, help="rows of a minibatch")
    fit.add_argument("--lr", type=float, default=1e-3, help="learning rate of AdamW")
    fit.add_argument("--weight-decay", type=float, default=0.1, help="of AdamW, on weights and not on biases")
    fit.add_argument("--input-dropout", type=float, default=0.0, help="probability of hiding an input while training")
    fit.add_argument("--patience", type=positive, default=15, help="epochs without improvement before stopping")
    fit.add_argument("--max-minutes", type=float, help="stop before an epoch that would end later")
    fit.add_argument("--resume", action="store_true", help="go on from the checkpoint MODEL.ckpt")
    add_threads(fit)


def _say_epoch(epoch: Epoch) -> None:
    mark = " *" if epoch.improved else ""
    losses = f"train {epoch.train_nll:8.3f}  valid {epoch.valid_nll:8.3f} nats"
    say(f"epoch {epoch.number:3d}  {losses}  lr {epoch.learning_rate:.2g}  {epoch.seconds:.1f} s{mark}")


def run(args: argparse.Namespace) -> int:
    """Trains, or goes on from a checkpoint, and writes the model."""
    import torch

    from made_fast import datasets, training
    from made_fast.models.made import MADE

    check_output(args.out)
    checkpoint = args.out.with_name(args.out.name + ".ckpt")
    if checkpoint.exists() and not args.resume:
        raise ValueError(f"{checkpoint} is from an unfinished run: add --resume to go on, or delete it to start anew")
    if args.out.exists() and not (args.resume or args.overwrite):
        raise ValueError(f"{args.out} is there already: add --overwrite to replace it, or give another --out")
    data = datasets.load(args.data)
    torch.manual_seed(args.seed)
    options = ("order", "activation", "direct", "residual", "num_masks", "shuffle", "mask_conditioning", "seed")
    model = MADE(data.features, args.hidden, **{name: getattr(args, name) for name in options})
    size = sum(parameter.numel() for parameter in model.parameters())
    say(f"{data.name}: {len(data.train):,} rows of {data.features} variables; {size:,} parameters")

    words = [word for word in args.argv if word != "--resume"]
    go_on = f"go on with: {shlex.join(['made-fast', *words, '--resume'])}"
    try:
        history = training.fit(
            model,
            data.train,
            data.valid,
            epochs=args.epochs,
            batch_size=args.batch_size,
            learning_rate=args.lr,
            weight_decay=args.weight_decay,
            input_dropout=args.input_dropout,
            patience=args.patience,
            seed=args.seed,
            max_minutes=args.max_minutes,
            checkpoint=checkpoint,
            resume=args.resume,
            progress=True,
            on_epoch=_say_epoch,
        )
    except KeyboardInterrupt:
        if checkpoint.exists():
            print(f"made-fast: {go_on}", file=sys.stderr)
        raise
    model.save(args.out)
    why = {"epochs": "all epochs done", "patience": "no more improvement", "time": "time is up"}[history.stopped]
    best = history.best
    say(f"stopped: {why}; best epoch {best.number} of {len(history.epochs)}, valid {best.valid_nll:.3f} nats")
    say(f"test NLL {shown(training.evaluate(model, data.test))} nats (95% interval, {len(data.test):,} rows)")
    say(f"model: {args.out}")
    if history.stopped == "time":
        say(f"checkpoint: {checkpoint}; with more --max-minutes {go_on}")
    else:
        checkpoint.unlink(missing_ok=True)
    return 0
