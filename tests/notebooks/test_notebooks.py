"""What every committed notebook must be, besides what nbval sees to over the same files.

nbval runs each notebook once and compares every output that is not tagged as live with the committed one, which is what
regenerating would write. The rest of a notebook is text, so it is checked here without running it again; `test_nbval`
shows that no changed output gets past nbval.
"""

from __future__ import annotations

import copy
import json
import re

import nbformat
import pytest

from tests.notebooks.regenerate import LIVE, NOTEBOOKS, merged, sanitized, without_widgets

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
NAMES = [
    "01_quickstart",
    "02_register_strategies",
    "03_queue_cycles",
    "04_time_travel",
    "05_hybrid_sync",
    "06_your_gateway",
]
BLOCKING = re.compile(r"startLoop|nest_asyncio\.apply")
OUTSIDE = re.compile(r"https?://(?!127\.0\.0\.1|localhost|www\.w3\.org/2000/svg)")  # the last is a name, not an address
MACHINE = re.compile(r"/(?:home|root|tmp|Users|work|private|var/folders)/|[A-Z]:\\\\|0x[0-9a-f]{6,}")

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code_of(path):
    """Return the code cells of a notebook."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_all_notebooks_are_there():
    """None is lost, and none is added without being named here."""
    assert [path.stem for path in PATHS] == NAMES


@each_notebook
def test_a_notebook_is_committed_with_outputs_and_without_noise(path):
    """It reads as documentation and as `regenerate` writes it: every cell was run, in order, and no widget is kept."""
    notebook = nbformat.read(path, as_version=4)
    code = code_of(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)
    assert set(notebook.metadata) == {"kernelspec"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
    for cell in code:
        assert cell.outputs == sanitized(merged(without_widgets(copy.deepcopy(cell.outputs))))
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("metadata", {}) == {}
            assert output.get("execution_count", cell.execution_count) == cell.execution_count


@each_notebook
def test_no_cell_hides_from_nbval_but_what_is_live(path):
    """One tag is known, a live cell shows something, and most cells are compared."""
    code = code_of(path)
    live = [cell for cell in code if cell.metadata.get("tags", []) == [LIVE]]
    assert all(cell.outputs for cell in live)
    assert len(live) < len(code) / 2
    for cell in code:
        assert cell.metadata.get("tags", [LIVE]) == [LIVE]
        assert "NBVAL" not in cell.source  # its markers in comments, some of which skip a cell


@each_notebook
@pytest.mark.parametrize("forbidden", [BLOCKING, OUTSIDE, MACHINE], ids=["blocking loop", "outside", "machine"])
def test_a_notebook_names_no_path_no_address_and_no_blocking_loop(path, forbidden):
    """What a notebook shows works on any machine, without the network and without patching the loop."""
    for cell in nbformat.read(path, as_version=4).cells:
        assert not forbidden.search(cell.source), cell.source
        assert not forbidden.search(json.dumps(cell.get("outputs", []))), cell.source


@each_notebook
def test_a_notebook_is_short(path):
    """It has 5 to 12 code cells and one title, so that it is read to its end."""
    cells = nbformat.read(path, as_version=4).cells
    assert 5 <= sum(cell.cell_type == "code" for cell in cells) <= 12
    titles = [cell for cell in cells if cell.cell_type == "markdown" and cell.source.startswith("# ")]
    assert titles == cells[:1]


@each_notebook
def test_a_notebook_shows_a_panel_and_waits_for_what_it_clicks(path):
    """What a button starts in the background fails in silence, unless somebody awaits it."""
    sources = [cell.source for cell in code_of(path)]
    assert any(re.search(r"\.(panel|dashboard)\(", source) for source in sources)
    for source in sources:
        if ".click(" in source:
            assert "settled()" in source[source.rindex(".click(") :], source


@each_notebook
def test_a_notebook_ends_by_closing_what_it_opened_and_checking_itself(path):
    """The last cell closes each desk, removes each folder that the notebook made, and asserts."""
    code = [cell.source for cell in code_of(path)]
    made = "\n".join(code[:-1])
    desks = set(re.findall(r"^(\w+) = await (?:v6kit\.open|open_desk)\(", made, flags=re.MULTILINE))
    folders = set(re.findall(r"^(\w+) = tempfile\.TemporaryDirectory\(", made, flags=re.MULTILINE))
    assert desks
    assert folders
    assert made.count("tempfile.") == len(folders)
    for name in desks:
        assert f"await {name}.close()" in code[-1]
    for name in folders:
        assert f"{name}.cleanup()" in code[-1]
    assert "assert" in code[-1]
