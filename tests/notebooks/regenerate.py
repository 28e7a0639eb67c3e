"""Run every notebook from a fresh kernel and write it back with its outputs: `python -m tests.notebooks.regenerate`.

Notebooks are documentation, so they are committed with outputs, and without what changes from run to run.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CELL_SECONDS = 60


def regenerate(path: Path) -> nbformat.NotebookNode:
    """Return the notebook with fresh outputs."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False).execute()
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
    return notebook


if __name__ == "__main__":
    for notebook_path in sorted(NOTEBOOKS.glob("*.ipynb")):
        nbformat.write(regenerate(notebook_path), notebook_path)
        print(f"{notebook_path.name}: written")  # noqa: T201 - a command's output
