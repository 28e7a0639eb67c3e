"""Run every notebook from a fresh kernel and write it back with its outputs: `python -m tests.notebooks.regenerate`.

Notebooks are documentation, so they are committed with outputs, and without what changes from run to run. A cell that
shows something live is tagged `nbval-ignore-output`; its output is committed as an example and compared with nothing.
Of a panel, its static picture is committed: a widget without its kernel would be an empty box.
"""

from __future__ import annotations

import configparser
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SANITIZE = Path(__file__).with_name("sanitize.cfg")
CELL_SECONDS = 60
LIVE = "nbval-ignore-output"
WIDGET = "application/vnd.jupyter.widget-view+json"


def regenerate(path: Path) -> nbformat.NotebookNode:
    """Return the notebook with fresh outputs."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False).execute()
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.outputs = sanitized(merged(without_widgets(cell.outputs)))
    return notebook


def without_widgets(outputs: Iterable[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return outputs as they look where no widget can be drawn."""
    kept = []
    for output in outputs:
        if "data" in output:
            output.data.pop(WIDGET, None)
            if not output.data:
                continue
        kept.append(output)
    return kept


def merged(outputs: Iterable[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return outputs with each stream in one piece, streams first: how they were cut and mixed is chance."""
    streams: dict[str, nbformat.NotebookNode] = {}
    others = []
    for output in outputs:
        if output.output_type != "stream":
            others.append(output)
        elif output.name in streams:
            streams[output.name].text += output.text
        else:
            streams[output.name] = output
    return [streams[name] for name in sorted(streams)] + others


def sanitized(outputs: Iterable[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return outputs without addresses and temporary folders, by the rules that nbval compares by."""
    rules = configparser.ConfigParser(interpolation=None)
    rules.read(SANITIZE)
    text = json.dumps(outputs)
    for name in rules.sections():
        text = re.sub(rules[name]["regex"], rules[name]["replace"], text)
    return [nbformat.from_dict(output) for output in json.loads(text)]


if __name__ == "__main__":
    chosen = [NOTEBOOKS / name for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb"))
    for notebook_path in chosen:
        nbformat.write(regenerate(notebook_path), notebook_path)
        print(f"{notebook_path.name}: written")  # noqa: T201 - a command's output
