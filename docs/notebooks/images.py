# %% [markdown]
# # Images: digits and inpainting
#
# A model of small binary images, from training to inpainting: pixels that are missing are drawn, given those that are
# known. The 1,797 handwritten digits of scikit-learn have 8 x 8 pixels; all figures below come from a network that
# trains in seconds.

# %%
import torch

from made_fast import MADE, plots
from made_fast.datasets import load
from made_fast.training import evaluate, fit

data = load("digits")  # rows of 0 and 1; .npz files of one's own are read in the same way
torch.manual_seed(0)
model = MADE(data.features, (256,), direct=True, activation="silu")
history = fit(model, data.train, data.valid, epochs=25, learning_rate=5e-3, input_dropout=0.02)
nats, half_width = evaluate(model, data.test)
print(f"test: {nats:.2f} ± {half_width:.2f} nats a digit")
axis = plots.training_curve(history)
assert nats < 22  # pixels that know nothing of each other need about 44

# %% [markdown]
# ## Samples
#
# Test digits on the left, samples of the model on the right. A sample costs less than one dense pass of the network.

# %%
from matplotlib import pyplot

figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 4), layout="constrained")
plots.images(data.test[:49], data.image_shape, output=model.output, ax=left).set_title("test digits")
plots.images(model.sample(49, seed=0), data.image_shape, output=model.output, ax=right).set_title("samples")
assert model.sample(49, seed=0).mean().sub(data.test.float().mean()).abs() < 0.03  # as much ink

# %% [markdown]
# ## Inpainting: the lower half is missing
#
# `given` holds the pixels that are known, `observed` says which they are. The upper half comes first in the order of
# the model, so the completions are exact draws from p(lower half | upper half): all weights are equal, and nine
# samples are worth nine.

# %%
known = torch.arange(data.features) < data.features // 2
digits = data.test[:6].float()
drawn = model.sample(9, seed=1, given=digits, observed=known)  # x (6, 9, 64)
assert torch.equal(drawn.x[..., known], digits[:, None, known].expand(-1, 9, -1))
assert (drawn.effective_sample_size > 8.99).all()
seen = digits.masked_fill(~known, torch.nan)  # pixels that are not known look like the gaps
axis = plots.images(torch.cat([digits[:, None], seen[:, None], drawn.x], 1), data.image_shape, output=model.output)

# %% [markdown]
# Each line: the digit, what the model was given, and nine completions.
#
# ## Inpainting: the upper half is missing
#
# Now what is known comes last. Samples of the upper half are drawn before the lower half is looked at, and each gets
# a weight: how well it explains the pixels that are known. The *effective sample size* says how many exact samples
# they are worth, and `sample` warns where that is little: thirty samples are too few.

# %%
import warnings

with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    model.sample(30, seed=2, given=digits, observed=~known)
print(told[0].message)

# %%
drawn = model.sample(2000, seed=2, given=digits, observed=~known)
for digit, size in enumerate(drawn.effective_sample_size.tolist()):
    print(f"digit {digit}: 2,000 samples are worth {size:.0f}")
assert (drawn.effective_sample_size > 100).all() and (drawn.effective_sample_size < 1000).all()
axis = plots.weights(drawn.log_weight[-1])

# %% [markdown]
# Nine completions of each digit are chosen by their weights. A mask whose order draws the known half first would do
# without weights: train with `order=` for one question, or with `num_masks=` for several.

# %%
generator = torch.Generator().manual_seed(0)
places = drawn.log_weight.softmax(-1).multinomial(9, replacement=True, generator=generator)  # (6, 9)
chosen = drawn.x[torch.arange(6)[:, None], places]
assert torch.equal(chosen[..., ~known], digits[:, None, ~known].expand(-1, 9, -1))
seen = digits.masked_fill(known, torch.nan)
axis = plots.images(torch.cat([digits[:, None], seen[:, None], chosen], 1), data.image_shape, output=model.output)

# %% [markdown]
# ## What the network looks like
#
# The masks of its layers, and when a draw evaluates which unit: once each, as soon as all that it may see is drawn.

# %%
axes = plots.masks(model)
axis = plots.levels(model)
