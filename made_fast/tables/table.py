"""``Table``: a model of a data frame, with missing cells, imputation and queries by names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from made_fast.arguments import seed_number, shown, tensor_of, whole_number
from made_fast.models import files
from made_fast.models.made import MADE
from made_fast.sampling.draws import Draws
from made_fast.sampling.estimates import Estimate
from made_fast.sampling.kept import Kept
from made_fast.sampling.sampler import Sampler
from made_fast.tables.completion import kept_cells, wanted_of
from made_fast.tables.frames import read, write
from made_fast.tables.likelihood import Likelihood, gated
from made_fast.tables.queries import Query, allowed_of, union_of
from made_fast.tables.schema import Schema
from made_fast.training import Epoch, History
from made_fast.training import fit as fit_model
from made_fast.training.optimizers import MakeOptimizer

__all__ = ["Table"]

_PARAMETERS = 1 << 22  # of rows whose log-probability is computed at once


class Table:
    r"""A density of the rows of a data frame.

    .. math:: p(\text{row}) = \prod_d p(m_d \mid m_{<d}, v_{<d})\; p(v_d \mid m_{\le d}, v_{<d})^{[m_d]}

    over the columns d in their order, where the bit :math:`m_d` says whether the cell is present and :math:`v_d` is its
    value: a value counts where it is there, and what comes after an absent one reads 0 in its place. Of categories, missing
    is one more, which is the same. Columns without missing cells have no bit.

    Args:
        schema: what the columns are.
        model: over the variables of the schema, with ``schema.output(..)`` as its output.

    Attributes:
        schema, model: as above.
        history: of the training by ``fit``; None of a table that was made otherwise.

    Raises:
        ValueError: model and schema do not fit each other.
    """

    def __init__(self, schema: Schema, model: MADE) -> None:
        kinds, expected = model.conditionals, schema.starts[-1]
        if len(kinds) != expected or model.context_features or model.num_masks != 1:
            raise ValueError(f"model must have {expected} variables, one mask and no context, got {model!r}")
        for column, start in zip(schema.columns, schema.starts, strict=False):
            for place, output in enumerate(column.outputs(1, 1e-4)):
                known, found = output.conditionals(1)[0], kinds[start + place]
                if (known.code, known.size) != (found.code, found.size):
                    raise ValueError(f"model must have {output!r} for column {column.name!r}, got {found!r}")
        rank = torch.empty_like(model.order).scatter(0, model.order, torch.arange(len(model.order)))
        if any(rank[value] < rank[bit] for value, bit in schema.indicators.items()):
            raise ValueError("model must draw the bit that says whether a cell is present before its value")
        self.schema, self.model, self.history = schema, model, None
        self._gated: Kept[Sampler] = Kept(model._state, self._make_sampler)

    history: History | None

    @classmethod
    def fit(
        cls,
        frame: Any,
        valid: Any = None,
        *,
        columns: Schema | Mapping[str, Any] | None = None,
        weight: Tensor | None = None,
        valid_weight: Tensor | None = None,
        hidden_features: Sequence[int] = (128, 128),
        activation: str = "silu",
        components: int = 5,
        floor: float = 0.01,
        epochs: int = 60,
        batch_size: int | None = None,
        learning_rate: float = 4e-3,
        weight_decay: float = 0.01,
        optimizer: torch.optim.Optimizer | MakeOptimizer | None = None,
        averaging: float = 0.998,
        decay_after: int = 2,
        patience: int = 6,
        seed: int = 0,
        max_minutes: float | None = None,
        device: torch.device | str = "cpu",
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        progress: bool = False,
        on_epoch: Callable[[Epoch], object] | None = None,
    ) -> Table:
        """Decides what the columns of a frame are, and fits a model to its rows.

        Args:
            frame: of pandas, polars or pyarrow; or a mapping from names to arrays. Its columns are drawn in their order: put
                those that are usually known first. With a ``Schema`` rows that its ``encode`` made will do, in fp32 too and
                mapped from a file.
            valid: rows that decide on decay and stopping; a tenth of the frame, chosen by chance, if left out.
            columns: by name what is known better than the cells tell, a ``Column`` or the name of a kind; or a ``Schema``.
            weight: (N,) of the rows of the frame, finite, 0 or more: those of a survey, say. A row of weight 2 counts as two.
            valid_weight: of the rows of ``valid``, where that is given.
            hidden_features, activation: of the network, see ``MADE``.
            components: of the mixtures that real columns and whole numbers have.
            floor: least scale of real columns, where a deviation is about 1: differences below are noise.
            batch_size: a hundredth of the rows, but 50 to 512, if left out.
            learning_rate, weight_decay: of AdamW; an optimizer of one's own has its own.
            device: of the training; the table lies on the CPU.
            epochs, optimizer, averaging, decay_after, patience, max_minutes, checkpoint, resume, progress, on_epoch: see
                ``training.fit``. All figures are nats a row in the units of the columns.
            seed: of the first weights, the choice of rows and their order.

        Raises:
            ValueError: a frame, a column or an argument does not fit; the message names it.
            TrainingError: the loss is not finite.
        """
        schema = columns if isinstance(columns, Schema) else Schema.of(frame, columns)
        rows, seed = schema.encode(frame), seed_number("seed", seed)
        if len(rows) < 2:
            raise ValueError(f"frame must have at least two rows, got {len(rows)}")
        if weight is not None:
            weight = tensor_of("weight", weight)
            if weight.shape != (len(rows),):
                raise ValueError(f"weight must have shape {(len(rows),)}, got {tuple(weight.shape)}")
        if valid is None:
            if valid_weight is not None:
                raise ValueError("valid_weight must be None where valid is, got weights")
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
            held_out = max(1, len(rows) // 10)
            train_rows, valid_rows = rows[order[held_out:]], rows[order[:held_out]]
            if weight is not None:
                weight, valid_weight = weight[order[held_out:]], weight[order[:held_out]]
        else:
            train_rows, valid_rows = rows, schema.encode(valid)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            output = schema.output(components, floor)
            model = MADE(schema.starts[-1], hidden_features, output=output, activation=activation, direct=True)
        table = cls(schema, model)
        size = min(max(len(train_rows) // 100, 50), 512) if batch_size is None else batch_size
        own = optimizer is not None
        options: dict[str, Any] = {"max_minutes": max_minutes, "checkpoint": checkpoint, "resume": resume}
        table.history = fit_model(
            Likelihood(model, schema),
            train_rows,
            valid_rows,
            epochs=epochs,
            batch_size=size,
            learning_rate=None if own else learning_rate,
            weight_decay=None if own else weight_decay,
            optimizer=optimizer,
            weight=weight,
            valid_weight=valid_weight,
            device=device,
            averaging=averaging,
            decay_after=decay_after,
            patience=patience,
            seed=seed % 2**32,
            progress=progress,
            on_epoch=on_epoch,
            **options,
        )
        model.cpu().eval()
        return table

    @torch.no_grad()
    def log_prob(self, frame: Any) -> Tensor:
        """The log-probability of each row in nats, fp64 (N,): of real columns a density in their own units.

        Moments count in days where all are whole days, whose probability is that of the day, and else in seconds.

        Raises:
            ValueError: a column is not there, or holds a cell that it never has.
        """
        rows, likelihood = self.schema.encode(frame), Likelihood(self.model, self.schema)
        if not len(rows):
            return rows.new_empty(0)
        at_once = max(1, _PARAMETERS // likelihood.starts[-1])
        return torch.cat([likelihood.log_prob(part) for part in rows.split(at_once)]).double().cpu()

    def sample(
        self,
        num_samples: int | None = None,
        *,
        seed: int | None = None,
        first_row: int = 0,
        given: Any = None,
        where: Query | None = None,
        candidates: int = 100,
        progress: bool = False,
    ) -> Any:
        """Draws rows, or fills what is missing in rows that are given.

        Args:
            num_samples: how many rows; with ``given`` for each of its rows, one after another, 1 if left out.
            seed: of the noise; drawn from torch's generator if left out.
            first_row: number of the first row: ``sample(n, seed=s)`` has in its rows a to b what ``sample(b - a, seed=s,
                first_row=a)`` has.
            given: a frame with some of the columns. What is there is kept, and missing cells of it are filled: drawn as the
                model has them given the rest, and given that they are there. Columns that it does not have are drawn as
                the model has them, missing cells among them.
            where: what holds for all rows that are drawn, a query as ``probability`` takes it, without ``or``.
            candidates: rows that are drawn for each one, of which one is chosen by its weight, where known cells or columns
                of the query come after unknown ones. The more, the nearer to the exact conditional distribution; where all
                known ones come first it is exact, and one is drawn.
            progress: whether to show a progress bar; not where rows are given or restricted.

        Returns:
            A frame with the names, the order and the dtypes of the one that was fitted; but whole numbers that are taken for
            real ones are floats and dates times, numpy's whole numbers and flags in a frame of pandas are nullable where
            ``Column`` says that cells may be missing, and the label of a reserved category is one of its dtype.

        Warns:
            UserWarning: of some rows few candidates carry all the weight.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        seed = int(torch.randint(2**63 - 1, ())) if seed is None else seed_number("seed", seed)
        if given is None and num_samples is None:
            raise ValueError("num_samples must be given where no rows are, got None")
        count = 1 if num_samples is None else whole_number("num_samples", num_samples, 1 if given is not None else 0)
        first_row = whole_number("first_row", first_row)
        if given is None and where is None:
            x = self._draws().sample(count, seed=seed, first_row=first_row, progress=progress)
            return write(self.schema.decode(x), self.schema.form)
        known, form = (None, None) if given is None else read(given)
        self.schema.check_names(known or {}, whole=False)
        wanted = wanted_of(self.schema, known, count, {} if where is None else allowed_of(self.schema, where))
        each = 1 if known is None else count
        candidates = whole_number("candidates", candidates, 1)
        x = wanted.repeated(each).drawn(
            self.schema,
            self._draws(),
            self.model.order.cpu(),
            candidates=candidates,
            seed=seed,
            first_row=first_row,
            count=each,
        )
        cells = self.schema.decode(x)
        for name, known_cells in (known or {}).items():
            cells[name] = kept_cells(cells[name], known_cells, each)
        made = write(cells, self.schema.form)
        if form is not None and count == 1 and form.library == self.schema.form.library == "pandas":
            made.index = given.index
        return made

    def probability(
        self,
        query: Query | Sequence[Query],
        num_samples: int = 1000,
        *,
        seed: int | None = None,
        progress: bool = False,
    ) -> Estimate:
        """Estimates the probability of a query, or of each of several: times the number of rows it is how many there are.

        Args:
            query: ``"age between 30 and 40 and (city in ('Rome', 'Oslo') or day >= '2024-01-01')"``, conditions joined by
                ``and`` and ``or``: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``between``, ``in``, ``not in``, ``is null``,
                ``is not null``; or a mapping by names of columns to a ``Between``, a set, a range, a value, or None for a
                missing cell. Dates are text or dates. All but ``is null`` and None hold for present cells alone. A sequence
                of such is answered in one call.
            num_samples: n, for each query.
            seed: of the noise; drawn from torch's generator if left out.
            progress: whether to show a progress bar.

        Returns:
            An ``Estimate``, which prints as ``0.4823 ± 0.0003``; the error is that of sampling. Alternatives are counted by
            inclusion and exclusion: the estimates of what several of them have in common are added and subtracted.

        Raises:
            ValueError: a query cannot be read, names no column, or compares one with what it never is.
        """
        single = isinstance(query, (str, Mapping))
        if not single and (not isinstance(query, Sequence) or not query):
            raise ValueError(f"query must be text, a mapping, or a sequence of at least one such, got {shown(query)}")
        unions = [union_of(self.schema, each) for each in ([query] if single else query)]
        terms = [allowed for union in unions for _, allowed in union]
        found = self._draws().estimate_probability(terms, num_samples, seed=seed, progress=progress)
        # Of which query each term is: its row of ones and minus ones.
        signs = torch.zeros(len(unions), len(terms), dtype=torch.float64)
        place = 0
        for number, union in enumerate(unions):
            for sign, _ in union:
                signs[number, place] = sign
                place += 1
        value, error = signs @ found.value.cpu(), (signs.abs() @ found.standard_error.cpu() ** 2).sqrt()
        value = value.clamp(0, 1)  # sums of fp32 may be above
        return Estimate(value[0], error[0]) if single else Estimate(value, error)

    def save(self, path: str | Path) -> None:
        """Writes weights, configuration and schema to a safetensors file; ``MADE.load`` reads the model of it alone.

        Raises:
            OSError: the folder does not exist or cannot be written.
        """
        self.model.save(path, attachment=self.schema.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Table:
        """Reads a table that ``save`` wrote. No code from the file is run.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated or foreign, has no table, or does not fit its own configuration.
        """
        table = cls._of_file(path, MADE.load(path))
        if table is None:
            raise ValueError(f"{path} has a model but no table: read it by MADE.load")
        return table

    @classmethod
    def _of_file(cls, path: str | Path, model: MADE) -> Table | None:
        """The table of a file whose model was read; None if it has none."""
        text = files.attachment(path)
        if not text:
            return None
        with files.fitting(path):
            return cls(Schema.from_json(text), model.eval())

    def __repr__(self) -> str:
        """The schema, a line for each column."""
        return f"Table of {len(self.schema.columns)} columns\n{self.schema}"

    def _make_sampler(self, last: Sampler | None) -> Sampler:
        program = gated(self.model.program(), self.schema.indicators)
        return Sampler(program, self.model.output, schedule=None if last is None else last.schedule)

    def _draws(self) -> Draws:
        """What draws the variables: absent values are read as 0."""
        return self._gated.current() if self.schema.indicators else self.model
