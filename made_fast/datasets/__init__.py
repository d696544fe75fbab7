"""Data files, files of samples, and pictures."""

from made_fast.datasets.npz import Dataset, image_shape, load
from made_fast.datasets.pictures import IMAGE_LIMIT, image_grid, load_pillow, write_png
from made_fast.datasets.samples import write_rows

__all__ = [
    "IMAGE_LIMIT",
    "Dataset",
    "image_grid",
    "image_shape",
    "load",
    "load_pillow",
    "write_png",
    "write_rows",
]
