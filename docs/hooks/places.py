"""Where the site is published, and the words by which its pages are found."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority

# Words that people type, where the page that answers has others or says them late. They count more than text does.
WORDS: dict[str, str] = {
    "install.md": "pip, conda, wheel, compiler, build, setup, requirements, windows, macos, download",
    "quick-start.md": "tutorial, getting started, hello world, first steps",
    "faq.md": """help, troubleshooting, slow, warm up, warmup, latency, nan, NaN, standardize, standardise, normalize,
        normalise, scaling, thread safe, multithreading, fork, multiprocessing, workers, num_workers, serve, serving, service,
        API, server, deploy, GPU, CUDA, MPS, cite, citation""",
    "names.md": "rename, renamed, deprecated, migration, glossary, synonyms, equivalent, arguments",
    "understand/autoencoders.md": "VAE, latent, reconstruction, masked autoencoder",
    "understand/autoregressive.md": "chain rule, causal mask, degree, NADE, PixelCNN, leak",
    "understand/orders.md": "permutation, ordering, order-agnostic, ensemble, num_masks",
    "understand/sampling.md": "ancestral sampling, cache, KV cache, why is sampling slow",
    "how-it-works.md": "algorithm, kernel, SIMD, AVX-512, Philox, random numbers",
    "train.md": """fit, loss, NLL, optimizer, learning rate, early stopping, overfitting, checkpoint, resume, save, load,
        TensorBoard""",
    "large-data.md": "Parquet, DataLoader, streaming, out of core, memory",
    "lightning.md": "PyTorch Lightning, Trainer",
    "distributed.md": "DDP, FSDP, multi-GPU, cluster, parallel, SLURM, Ray, Dask, joblib, torchrun",
    "sample.md": "generate, generation, draw, seed, reproducible, deterministic",
    "conditions.md": """inpainting, imputation, impute, completion, conditional, missing, constraint, marginal, nucleus,
        top-k, beam search, MAP, evidence, importance weights""",
    "backends.md": "CUDA, GPU, engine, AVX2, half precision, bfloat16, float16, deterministic, device",
    "outputs.md": """Gaussian, softmax, one-hot, tokens, categorical, continuous, discretized, greyscale, grayscale, pixels,
        counts""",
    "own-outputs.md": "custom distribution, Poisson, likelihood",
    "physics.md": "Boltzmann, VMC, VAN, variational, statistical mechanics, partition function",
    "tables.md": "pandas, polars, CSV, DataFrame, tabular, synthetic data, missing values, NaN, impute, SQL",
    "scikit-learn.md": "sklearn, pipeline, KernelDensity",
    "command-line.md": "CLI, shell, terminal, bash",
    "export.md": "ONNX, TorchScript, AOTInductor, deploy, Hugging Face, hub, PEFT, LoRA, FLOPs",
    "accelerate.md": "speed up, my own network, custom model, module, capture",
    "flows.md": "MAF, IAF, normalizing flow, normalising flow, spline, inverse",
    "libraries/sbi.md": "NPE, posterior, simulation-based inference, SNPE",
    "libraries/pytorch-made.md": "karpathy, Andrej",
    "libraries/your-own-module.md": "custom network",
    "reference/index.md": "API, MADE class",
    "performance/index.md": "benchmark, speed, how fast, throughput, timing, comparison",
    "performance/method.md": "how measured, reproduce benchmarks",
    "extend.md": "plugin, new backend, develop",
}


def on_config(config: Any, **_: Any) -> Any:
    """The addresses stand in pyproject.toml alone; of the placeholder that stands there before a release, none is made."""
    project = Path(config.config_file_path).with_name("pyproject.toml")
    urls = tomllib.loads(project.read_text())["project"]["urls"]
    if "OWNER" not in urls["Documentation"]:
        config.site_url = urls["Documentation"]
        config.extra["social"] = [{"icon": "fontawesome/brands/github", "link": urls["Source"], "name": "Source"}]
    return config


@event_priority(50)
def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Gives a page its words, which the search reads and no page shows."""
    words = WORDS.get(page.file.src_uri)
    if words is not None:
        page.meta["tags"] = [word.strip() for word in words.split(",")]
    return markdown


def on_post_build(config: Any, **_: Any) -> None:
    """Refuses words for pages that are not there, and an index of the search without the words."""
    index = json.loads(Path(config.site_dir, "search", "search_index.json").read_text())["docs"]
    tagged = {entry["location"].removesuffix(".html") + ".md" for entry in index if entry.get("tags")}
    lost = set(WORDS) - tagged
    if lost:
        raise PluginError(f"the search does not know the words of {sorted(lost)}")
