"""The notebooks of the site: kept as Python in docs/notebooks/, executed when the pages are built.

Each becomes a page with what its cells print and draw, and an .ipynb that can be downloaded. A cell that fails, a claim of a
notebook that is not true among them, fails the build.
"""

from __future__ import annotations

import functools
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jinja2 import DictLoader
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbconvert import MarkdownExporter

_FOLDER = "notebooks"
# Of a kernel: small models, where more threads wait for each other; and no word of tqdm about widgets that are not there.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore:::tqdm.auto"}
_AT_ONCE = 2  # notebooks
_SECONDS = 300  # that a cell may take, where all together need a minute
_HEADER = "[As a notebook with outputs]({name}.ipynb), [as Python]({name}.py). Executed when this page was built.\n"
# What a cell prints is a block that the style sheet knows; blank lines keep blocks apart.
_TEMPLATE = """
{%- extends 'markdown/index.md.j2' -%}
{%- macro printed(text) %}

``` { .text .output }
{{ text | trim }}
```

{% endmacro -%}
{%- block input %}

```python
{{ cell.source }}
```

{% endblock input -%}
{%- block stream %}{{ printed(output.text) }}{% endblock stream -%}
{%- block data_text scoped %}{{ printed(output.data['text/plain']) }}{% endblock data_text -%}
{%- block data_png scoped %}

![What the cell above draws]({{ output.metadata.filenames['image/png'] | path2url }})

{% endblock data_png -%}
"""


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds to the sources of the site what each notebook gives."""
    paths = sorted(Path(config.docs_dir, _FOLDER).glob("*.py"))
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # the cells of each run in a process of its own
        made = pool.map(lambda path: _made(path.stem, path.read_text()), paths)
        for name, content in (pair for each in made for pair in each.items()):
            files.append(File.generated(config, f"{_FOLDER}/{name}", content=content))
    return files


@functools.cache  # while pages are served, which builds them again at every change
def _made(name: str, source: str) -> dict[str, str | bytes]:
    """The files that a notebook gives, by their names: page, notebook and pictures."""
    notebook = _executed(name, source)
    exporter = MarkdownExporter(extra_loaders=[DictLoader({"page.md.j2": _TEMPLATE})], template_file="page.md.j2")
    page, resources = exporter.from_notebook_node(notebook, resources={"output_files_dir": name})
    title, _, rest = page.lstrip().partition("\n")
    return {
        f"{name}.md": f"{title}\n\n{_HEADER.format(name=name)}\n{rest}",
        f"{name}.ipynb": nbformat.writes(notebook),
        **resources["outputs"],
    }


def _executed(name: str, source: str) -> Any:
    """A notebook with its outputs; it runs in an empty folder."""
    notebook = jupytext.reads(source, fmt="py:percent")
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=_SECONDS,
            startup_timeout=_SECONDS,
            kernel_name="python3",
            extra_arguments=["--log-level=ERROR"],  # it listens on this machine alone, and would warn of that
            resources={"metadata": {"path": folder}},
        )
        try:
            client.execute(env={**os.environ, **_ENVIRONMENT, "IPYTHONDIR": folder})
        except (CellExecutionError, CellTimeoutError) as error:
            raise PluginError(f"docs/{_FOLDER}/{name}.py fails: {error}") from None
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    warned = [output.text for output in outputs if output.get("name") == "stderr"]
    if warned:
        raise PluginError(f"docs/{_FOLDER}/{name}.py must not warn: {warned[0]}")
    return notebook
