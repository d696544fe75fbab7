"""Where the site is published, and the words by which its pages are found."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority

# Words that people type, where a page has others for the same thing. They count as its tags do: more than its text.
WORDS: dict[str, tuple[str, ...]] = {}


def on_config(config: Any, **_: Any) -> Any:
    """The addresses stand in pyproject.toml alone; none is made of the placeholder."""
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
        page.meta["tags"] = [*page.meta.get("tags", ()), *words]
    return markdown


def on_post_build(config: Any, **_: Any) -> None:
    """Refuses words for pages that are not there, and an index of the search without the words."""
    index = json.loads(Path(config.site_dir, "search", "search_index.json").read_text())["docs"]
    tagged = {entry["location"].removesuffix(".html") + ".md" for entry in index if entry.get("tags")}
    lost = set(WORDS) - tagged
    if lost:
        raise PluginError(f"the search does not know the words of {sorted(lost)}")
