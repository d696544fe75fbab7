"""Pictures of samples."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
from torch import Tensor

from made_fast.datasets.npz import _Bits
from made_fast.files import written_whole

__all__ = ["IMAGE_LIMIT", "image_grid", "load_pillow", "write_png"]

IMAGE_LIMIT = 10_000  # images in one PNG: 784 pixels each make a picture of 8 megapixels


def image_grid(rows: Tensor, shape: tuple[int, int], *, columns: int, scale: int, levels: int = 2) -> _Bits:
    """Lay images out on a grey grid, 0 as white paper and ``levels - 1`` as black ink, each with a thin margin.

    Args:
        rows: ``(N, D)`` whole numbers 0 to ``levels - 1``, N of 1 or more, D = ``shape[0] * shape[1]``.
        shape: ``(height, width)`` of one image in pixels.
        columns: images per line.
        scale: screen pixels per image pixel.
        levels: how many values a pixel may have.

    Returns:
        ``(height, width)`` uint8 grey levels.

    Raises:
        ValueError: a row holds something else.
    """
    strange = rows[(rows < 0) | (rows > levels - 1)]
    if len(strange):
        raise ValueError(f"rows must be 0 to {levels - 1} in a picture, got {strange[0].item()}")
    height, width = shape
    columns = min(columns, len(rows))
    lines = -(-len(rows) // columns)
    cell_height, cell_width = height * scale + scale, width * scale + scale
    canvas = np.full((lines * cell_height + scale, columns * cell_width + scale), 200, dtype=np.uint8)
    ink = 1 - rows.cpu().numpy().reshape(-1, height, width) / max(1, levels - 1)
    ink = np.round(255 * ink).astype(np.uint8)
    for index, image in enumerate(ink):
        top, left = scale + index // columns * cell_height, scale + index % columns * cell_width
        canvas[top : top + height * scale, left : left + width * scale] = image.repeat(scale, 0).repeat(scale, 1)
    return canvas


def write_png(path: Path, panels: dict[str, _Bits]) -> None:
    """Write pictures side by side, each under its title; where all titles are empty no space is left for them.

    Args:
        path: where to write; the format is PNG whatever the name.
        panels: title to grey levels ``(height, width)`` uint8.

    Raises:
        ModuleNotFoundError: if pillow is not installed.
        OSError: if the file cannot be written.
    """
    image, draw, font = load_pillow()
    gap, bar = 16, 28 if any(panels) else 0
    width = sum(panel.shape[1] for panel in panels.values()) + gap * (len(panels) - 1)
    picture = image.new("L", (width, bar + max(panel.shape[0] for panel in panels.values())), 255)
    left = 0
    for title, panel in panels.items():
        draw.Draw(picture).text((left + 2, 4), title, fill=0, font=font.load_default(size=16))
        picture.paste(image.fromarray(panel), (left, bar))
        left += panel.shape[1] + gap
    with written_whole(path) as partial:
        picture.save(partial, format="PNG")


def load_pillow() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Pillow's modules Image, ImageDraw and ImageFont.

    Raises:
        ModuleNotFoundError: if pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a PNG needs pillow: pip install 'made_fast[demo]'") from error
    return Image, ImageDraw, ImageFont
