"""What every committed notebook must be, besides running: nbval does that, over the same files."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
FORBIDDEN = re.compile(r"startLoop|nest_asyncio\.apply|https?://(?!127\.0\.0\.1)|/(?:home|root|tmp|Users)/")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_with_outputs_and_without_noise(path):
    """It reads as documentation: every code cell was run, in order, and keeps no widget state."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)
    assert "widgets" not in notebook.metadata


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_names_no_path_no_address_and_no_blocking_loop(path):
    """What a notebook shows works on any machine, without the network and without patching the loop."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        assert not FORBIDDEN.search(cell.source), cell.source
        for output in cell.get("outputs", []):
            assert not FORBIDDEN.search(str(output)), output


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_ends_by_closing_what_it_opened_and_checking_itself(path):
    """The last code cell asserts, and the desk is closed."""
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert "assert" in code[-1]
    assert any("close()" in source for source in code)
