# %% [markdown]
# # A table with missing cells, from CSV to answers
#
# A data frame of pandas with text, flags, whole and real numbers, dates and missing cells: one model of all columns
# together draws rows, fills in what is missing and answers queries. The table is made up, so that every answer can be
# compared with the truth.

# %%
import io

import numpy as np
import pandas as pd

from made_fast import plots
from made_fast.tables import Table


def flats(rows, seed):
    rng = np.random.default_rng(seed)
    district = rng.choice(["north", "south", "centre"], rows, p=[0.5, 0.3, 0.2])
    central = district == "centre"
    rooms = 1 + rng.poisson(1.5, rows).clip(max=6)
    lift = rng.random(rows) < np.where(central, 0.7, 0.3)
    listed = np.datetime64("2024-01-01") + rng.integers(0, 366, rows)
    area = (14 + 17 * rooms + rng.normal(0, 6, rows)).round(1)
    rent = (250 + 9 * area + 300 * central + 80 * lift + rng.normal(0, 60, rows)).round(2)
    rent[rng.random(rows) < np.where(central, 0.5, 0.1)] = np.nan
    return pd.DataFrame(
        {"district": district, "rooms": rooms, "lift": lift, "listed": listed, "area": area, "rent": rent}
    )


csv = flats(4000, seed=0).to_csv(index=False)  # stands for a file
print(*csv.splitlines()[:6], sep="\n")

# %% [markdown]
# ## Read and fit
#
# `read_csv` is told which column holds dates; the table finds out everything else. A missing cell is an empty field.

# %%
frame = pd.read_csv(io.StringIO(csv), parse_dates=["listed"])
train, held_out = frame[:3600], frame[3600:]
table = Table.fit(train, epochs=15, seed=0)
print(table)
axis = plots.training_curve(table.history)

# %%
nats = table.log_prob(held_out)
print(f"held-out rows: {nats.mean():.2f} nats a row")
assert nats.shape == (400,) and nats.isfinite().all()

# %% [markdown]
# ## Draw rows
#
# Real rows and drawn ones, column by column. The rent is missing as often in both, and its missing cells are a part
# of the model.

# %%
drawn = table.sample(4000, seed=1)
assert list(drawn) == list(frame) and drawn.dtypes.equals(frame.dtypes)
axes = plots.marginals(frame, drawn)

# %%
for name in ("area", "rent"):
    assert abs(drawn[name].mean() / frame[name].mean() - 1) < 0.05
missing = pd.DataFrame(
    {each: rows.rent.isna().groupby(rows.district).mean() for each, rows in (("real", frame), ("drawn", drawn))}
)
assert (missing.real - missing.drawn).abs().max() < 0.1
missing.round(3)

# %% [markdown]
# Two columns at a time: real rows below the diagonal, drawn ones above it. Where the model is right they are mirror
# images.

# %%
axes = plots.pairs(frame, drawn, ["district", "rooms", "area", "rent"])

# %% [markdown]
# ## Fill in missing cells
#
# `given=` keeps the cells that are there. Every missing one is drawn from what the model believes of it given all
# others.

# %%
holes = held_out.assign(rooms=pd.NA)  # a whole column is not known, and some rents are not
filled = table.sample(given=holes, seed=2, candidates=500)
right = (filled.rooms.to_numpy() == held_out.rooms.to_numpy()).mean()
usual = (held_out.rooms == frame.rooms.mode()[0]).mean()
print(f"rooms drawn as they were: {right:.0%}; the most frequent number everywhere: {usual:.0%}")
assert filled.notna().all(axis=None) and right > usual + 0.15
assert filled[["district", "area"]].equals(held_out[["district", "area"]])

# %% [markdown]
# ## Ask
#
# Queries are sampled progressively, and their answers come with an error. The truth is counted in a million fresh
# rows.

# %%
queries = [
    "rooms between 2 and 3 and district in ('north', 'south') and rent <= 900",
    "rent is null",
    "listed >= '2024-03-01' and listed < '2024-04-01'",
    "lift = true and area > 80",
]
answers = table.probability(queries, 4000, seed=3)
fresh = flats(1_000_000, seed=4)
truth = [
    (fresh.rooms.between(2, 3) & (fresh.district != "centre") & (fresh.rent <= 900)).mean(),
    fresh.rent.isna().mean(),
    (fresh.listed.dt.month == 3).mean(),
    (fresh.lift & (fresh.area > 80)).mean(),
]
assert np.abs(answers.value.numpy() - truth).max() < 0.03
for query, answer, share in zip(queries, str(answers).splitlines(), truth, strict=True):
    print(f"{answer}   {share:.4f}   {query}")

# %% [markdown]
# ## Save, load, and scikit-learn
#
# Weights and schema are in one file. As an estimator of scikit-learn, `TableDensity` goes into grid searches and
# pipelines.

# %%
from made_fast.tables.estimator import TableDensity

table.save("flats.safetensors")
assert Table.load("flats.safetensors").sample(100, seed=1).equals(drawn[:100])
density = TableDensity(epochs=5, random_state=0).fit(train)
print(f"held-out rows: {density.score(held_out):.2f} nats a row after 5 epochs")
