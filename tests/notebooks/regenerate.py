"""Run every notebook from a fresh kernel and write it back with its outputs: `python -m tests.notebooks.regenerate`.

Notebooks are documentation, so they are committed with outputs, and without what changes from run to run.
"""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SANITIZE = Path(__file__).with_name("sanitize.cfg")
CELL_SECONDS = 60


def regenerate(path: Path) -> nbformat.NotebookNode:
    """Return the notebook with fresh outputs."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False).execute()
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.outputs = sanitized(cell.outputs)
    return notebook


def sanitized(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return outputs without addresses and temporary folders, by the rules that nbval compares by."""
    rules = configparser.ConfigParser(interpolation=None)
    rules.read(SANITIZE)
    text = json.dumps(outputs)
    for name in rules.sections():
        text = re.sub(rules[name]["regex"], rules[name]["replace"], text)
    return [nbformat.from_dict(output) for output in json.loads(text)]


if __name__ == "__main__":
    for notebook_path in sorted(NOTEBOOKS.glob("*.ipynb")):
        nbformat.write(regenerate(notebook_path), notebook_path)
        print(f"{notebook_path.name}: written")  # noqa: T201 - a command's output
