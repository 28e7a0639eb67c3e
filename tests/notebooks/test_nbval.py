"""That a committed notebook is what regenerating writes: nbval runs it, and no changed output gets past nbval."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import nbformat
import pytest

from tests.notebooks.regenerate import LIVE, NOTEBOOKS, WIDGET, regenerate

ROOT = NOTEBOOKS.parent

SHOWN = """
class Shown:
    def _repr_mimebundle_(self, **_options):
        return {"text/plain": "a line", "text/html": "<b>a table</b>", "image/svg+xml": "<svg></svg>"}
"""
LOUD = "import sys; print('a warning', file=sys.stderr)"
BUSY = "import ipywidgets; ipywidgets.IntSlider()"
PORT = "import random; print(f'127.0.0.1:{random.randrange(10_000, 60_000)}')"


def write(outputs):
    """Change what was printed."""
    outputs[0].text = "another text\n"


def show(mime: str) -> Callable[[list[nbformat.NotebookNode]], None]:
    """Return what changes one form of what was shown."""

    def change(outputs):
        outputs[0].data[mime] = "something else"

    return change


def lose(outputs):
    """Lose all of it."""
    outputs.clear()


def drop_html(outputs):
    """Lose one form of what was shown."""
    del outputs[0].data["text/html"]


def add(outputs):
    """Keep a line that nobody prints."""
    outputs.append(nbformat.v4.new_output("stream", name="stdout", text="never said\n"))


CHANGES = [
    ("print('a text')", write),
    (LOUD, write),
    ("40 + 2", show("text/plain")),
    (SHOWN + "Shown()", show("text/plain")),
    ("Shown()", show("text/html")),
    ("Shown()", show("image/svg+xml")),
    ("Shown()", drop_html),
    ("Shown()", lose),
    ("None", add),
    (PORT, write),
    (BUSY, show("text/plain")),
]


def passing(tmp_path: Path, *paths: Path) -> list[bool]:
    """Run notebooks as the suite does, and return of each cell whether it passed, in order."""
    report = tmp_path / "report.xml"
    options = ["-q", "-n0", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", f"--junitxml={report}"]
    subprocess.run([sys.executable, "-m", "pytest", *options, *map(str, paths)], cwd=ROOT, check=False)
    cells = ET.parse(report).getroot().iter("testcase")  # noqa: S314 - pytest has just written it
    return [len(cell) == 0 for cell in cells]


@pytest.mark.timeout(600)  # it starts pytest, and a kernel for each of three notebooks
def test_what_regenerate_writes_passes_nbval_and_any_changed_output_fails_it(tmp_path):
    """Each kind of output, changed, lost or added, is found; only a live one may differ, and what is sanitized."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source, _ in CHANGES]
    notebook.cells.append(nbformat.v4.new_code_cell(PORT, metadata={"tags": [LIVE]}))
    nbformat.write(notebook, tmp_path / "kept.ipynb")
    kept = regenerate(tmp_path / "kept.ipynb")
    assert not any(WIDGET in output.get("data", {}) for cell in kept.cells for output in cell.outputs)
    nbformat.write(kept, tmp_path / "kept.ipynb")
    changed = copy.deepcopy(kept)
    for cell, (_, change) in zip(changed.cells, CHANGES, strict=False):
        change(cell.outputs)
    write(changed.cells[-1].outputs)
    nbformat.write(changed, tmp_path / "changed.ipynb")

    number = len(kept.cells)
    passed = passing(tmp_path, tmp_path / "kept.ipynb", tmp_path / "changed.ipynb")
    assert passed[:number] == [True] * number
    assert passed[number:] == [False] * (number - 1) + [True]
