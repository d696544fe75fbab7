"""Pages with the sources that the reference links to: each line has an anchor."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from mkdocs.commands.build import get_context
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import TableOfContents
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

_FOLDER = "source"
_LINK = re.compile(rf'href="\.\./{_FOLDER}/([\w/]+)\.html#line-\d+"')  # as docs/theme/python has it
_kept: dict[str, Any] = {}


def on_nav(nav: Any, **_: Any) -> None:
    """Keeps the menu for the pages that are made last."""
    _kept["nav"] = nav


def on_env(env: Any, files: Any, **_: Any) -> None:
    """Keeps the templates too."""
    _kept.update(env=env, files=files)


def on_post_build(config: Any, **_: Any) -> None:
    """Writes the page of every source that a page of the reference names."""
    reference = Path(config.site_dir, "reference")
    linked = {name for page in reference.glob("*.html") for name in _LINK.findall(page.read_text())}
    if not linked:
        raise PluginError("no page of the reference links to its sources: has docs/theme/python lost its effect?")
    for name in sorted(linked):
        _write(f"{name}.py", config)


def _write(name: str, config: Any) -> None:
    file = File.generated(config, f"{_FOLDER}/{name.removesuffix('.py')}.md", content="")
    page = Page(name, file, config)
    lines = HtmlFormatter(linenos="inline", lineanchors="line", anchorlinenos=True, cssclass="highlight whole")
    code = highlight(
        Path(config.config_file_path).with_name("made_fast").parent.joinpath(name).read_text(), PythonLexer(), lines
    )
    page.content, page.toc = f"<h1>{html.escape(name)}</h1>\n{code}", TableOfContents([])
    page.meta = {"hide": ["toc"]}
    context = get_context(_kept["nav"], _kept["files"], config, page)
    target = Path(config.site_dir, file.dest_uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_kept["env"].get_template("main.html").render(context))
