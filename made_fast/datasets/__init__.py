"""Data files, files of samples, and pictures."""

from made_fast.datasets.arrays import ARRAYS, split_rows
from made_fast.datasets.frames import FRAMES, FrameFile, write_frames
from made_fast.datasets.npz import SHARES, Dataset, image_shape, load, read_parts
from made_fast.datasets.pictures import IMAGE_LIMIT, image_grid, load_pillow, write_png
from made_fast.datasets.samples import write_rows

__all__ = [
    "ARRAYS",
    "FRAMES",
    "IMAGE_LIMIT",
    "SHARES",
    "Dataset",
    "FrameFile",
    "image_grid",
    "image_shape",
    "load",
    "load_pillow",
    "read_parts",
    "split_rows",
    "write_frames",
    "write_png",
    "write_rows",
]
