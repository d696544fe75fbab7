"""What must be true of the names that pages define, beyond the assertions of the pages themselves."""

import datetime
import math
import re
import shlex
from pathlib import Path
from typing import Any

import torch

from made_fast import cli
from made_fast.estimation import enumerate_log_prob

Names = dict[str, Any]

COMMAND_LINE = Path(__file__).parents[2] / "docs" / "command-line.md"


def check_conditions(names: Names) -> None:
    states, log_prob = names["states"], names["log_prob"].double()
    assert log_prob.logsumexp(0).abs() < 1e-5
    two = states[:, 5] == 2
    exact = log_prob[two].logsumexp(0)
    marginal = names["marginal"]
    assert (marginal.value - exact).abs() < 5 * marginal.standard_error
    share = log_prob[two & (states[:, 0] == 1)].logsumexp(0) - exact
    assert abs(float(names["share"]) - math.exp(share)) < 0.03
    assert 0 < names["effective"] < 20_000
    inside = (states[:, 0] != 1) & (states[:, 3] >= 1) & (states[:, 5] >= 1)
    answer = names["answer"]
    assert (answer.value - log_prob[inside].logsumexp(0).exp()).abs() < 5 * answer.standard_error
    assert names["low"] < answer.value < names["high"]
    states, log_prob = enumerate_log_prob(names["chain"])
    neutral = states.sum(1) == 0
    chance, total = names["chance"], log_prob[neutral].double().logsumexp(0)
    assert (chance.value - total.exp()).abs() < 5 * chance.standard_error
    exact = ((log_prob[neutral].double() - total).exp() * states[neutral, 0] * states[neutral, 1]).sum()
    assert abs(float(names["pair"]) - float(exact)) < 0.03
    model = names["model"]
    torch.testing.assert_close(names["nats"], model.log_prob(names["sharp"]).detach(), rtol=1e-4, atol=1e-4)
    assert names["nats"].mean() > log_prob.exp() @ log_prob  # sharper than the model
    assert names["best_nats"] > log_prob.median()


def check_physics(names: Names) -> None:
    exact, bound, corrected = names["exact"], names["bound"], names["corrected"]
    assert (corrected.value - exact).abs() < 5 * corrected.standard_error
    assert corrected.standard_error < 0.01
    gap = (bound.value - exact) - names["divergence"]
    assert gap.abs() < 5 * bound.standard_error
    assert 0 <= names["divergence"] < 0.05
    assert (names["estimate"] - names["magnetisation"]).abs() < 0.01


def check_large_data(names: Names) -> None:
    assert names["by_seed"].best.valid_nll < 11
    streamed = names["history"].columns()["train_nll"]
    assert len(streamed) == 3
    rows = torch.cat([*names["stream"]])
    assert rows.shape == (2000, 16)
    assert torch.equal(rows.sum(0), torch.from_numpy(names["bits"]).sum(0).float())


def check_lightning(names: Names) -> None:
    assert float(names["trainer"].callback_metrics["valid_nll"]) < 10  # independent coins have 11.1, the rows 8.3
    assert names["samples"].shape == (1000, 16)


def check_train(names: Names) -> None:
    assert names["columns"]["learning_rate"][1] < 0.1
    assert Path("history.csv").read_text().count("\n") == len(names["history"].epochs) + 1


def check_command_line(_: object) -> None:
    """Runs all that stand in blocks without a language, where the page's blocks of Python have run; looks at their files."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", COMMAND_LINE.read_text(), re.MULTILINE | re.DOTALL)
    for line in "".join(block for kind, block in blocks if not kind).splitlines():
        words = shlex.split(line)
        assert cli.main([*words[1:], *(["--threads", "1"] if words[1] != "doctor" else [])]) == 0, line
    import polars

    drawn, twenty = polars.read_parquet("drawn.parquet"), polars.read_parquet("twenty.parquet")
    assert drawn.schema == polars.read_csv("drawn.csv", try_parse_dates=True).schema
    assert drawn.columns == ["city", "age", "joined", "income"] and len(drawn) == 1000
    assert set(twenty["city"][:20]) == {"Oslo"} and set(twenty["age"][20:]) == {71} and len(twenty) == 40
    assert twenty["joined"].min() >= datetime.date(2024, 7, 1)
