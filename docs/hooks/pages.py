"""What the site needs beyond its plugins.

Formulas as MathML, which needs no script; links to files of the repository that are pages of the site; a check of what pages
load.
"""

from __future__ import annotations

import html
import posixpath
import re
import textwrap
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

# Files outside docs/ that a page includes. Pages link to the file, which works where the repository is browsed too.
_SHOWN = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "performance/method.md",
}
_TABLES = (
    Path(__file__).parents[1] / "performance"
)  # pages that include benchmarks/results/NAME.md, under the anchor #name
_TABLE = re.compile(r"benchmarks/results/(\w+)\.md")
_ANCHORED = re.compile(r"docs/performance\.md#([\w-]+)")  # as links were while there was one page
_LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]*|(?:\.\./)*performance\.md)(#[^)\s]*)?\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
_FUNCTION = re.compile(r"\\(log|exp)\s+(?![,;(])")  # the space that TeX puts after a function
_ROLE = re.compile(r":math:`([^`]*)`")
_DIRECTIVE = re.compile(r"^( *)\.\. math:: ?(.*(?:\n(?:\1 +\S.*))*)", re.MULTILINE)
_FOREIGN = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//|<link\b[^>]*stylesheet[^>]*href="(?:https?:)?//'
)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of docs/ to files that are shown as pages lead to the pages."""
    folder, tables = posixpath.dirname(page.file.src_uri), _tables()

    def inward(found: re.Match[str]) -> str:
        path, anchor = posixpath.normpath(posixpath.join("docs", folder, found[1])), found[2] or ""
        named = _TABLE.fullmatch(path) or _ANCHORED.fullmatch(path + anchor)
        if named is not None:
            name = named[1].replace("_", "-")
            shown, anchor = tables.get(name), f"#{name}"
        else:
            shown = "performance/index.md" if path == "docs/performance.md" else _SHOWN.get(path)
        return found[0] if shown is None else f"]({posixpath.relpath(shown, folder or '.')}{anchor})"

    return _LINK.sub(inward, markdown)


def _tables() -> dict[str, str]:
    """Which page shows a file of measured tables, by the anchor that stands over it."""
    return {
        name.replace("_", "-"): f"performance/{path.name}"
        for path in sorted(_TABLES.glob("*.md"))
        for name in _TABLE.findall(path.read_text())
    }


def on_page_content(content: str, **_: Any) -> str:
    """Formulas between dollars as MathML."""

    def mathml(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        return convert(_FUNCTION.sub(r"\\\1\\,", html.unescape(found[2]).strip()), display=display)

    return _FORMULA.sub(mathml, content)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuses a page that would load something from another place."""
    foreign = _FOREIGN.search(output)
    if foreign is not None:
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {output[foreign.start() : foreign.end() + 60]!r}")
    return output


class RestFormulas(griffe.Extension):
    """Formulas of docstrings, which are written for Sphinx, as Markdown has them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of every object that was read."""
        if obj.docstring is not None:
            obj.docstring.value = _DIRECTIVE.sub(_between_dollars, _ROLE.sub(r"$\1$", obj.docstring.value))


def _between_dollars(found: re.Match[str]) -> str:
    formula = textwrap.dedent(found[2]).strip()
    return f"{found[1]}$$\n{textwrap.indent(formula, found[1])}\n{found[1]}$$"
