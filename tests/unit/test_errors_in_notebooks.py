"""What a notebook shows of our errors, and that nothing else changes: a real IPython, and plain Python beside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from v6kit.errors import StorageError

Cell = Callable[[str], str]
FAILING = """\
import v6kit
def look(account):
    raise v6kit.StorageError('the <lake> is away; mount it')
"""


@pytest.fixture
def cell(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> Cell:
    """Run cells in a shell of the test's own; returns what each printed."""
    shell.colors = "nocolor"

    def run(code: str) -> str:
        shell.run_cell(code, store_history=True)
        return capsys.readouterr().out

    run(FAILING)
    return run


def test_an_error_is_its_sentence_the_lines_of_the_cell_and_the_way_to_more(cell: Cell):
    """None of the library's own frames, nor of IPython's."""
    assert cell("x = 1\nlook('DU1')") == (
        "StorageError: the <lake> is away; mount it\n"
        "  line 2: look('DU1')\n"
        "  line 3 of look: raise v6kit.StorageError('the <lake> is away; mount it')\n"
        "(%tb shows the whole traceback)\n"
    )


def test_its_causes_are_named_to_the_last(cell: Cell):
    """Whatever led to it, whether it was said by `from` or not; what was suppressed is not told."""
    told = cell(
        "try:\n    try:\n        1 / 0\n    except ZeroDivisionError:\n        {}['key']\n"
        "except KeyError as error:\n    raise v6kit.QueueError('no') from error"
    )
    assert "  because of KeyError: 'key'\n  because of ZeroDivisionError: division by zero\n" in told
    told = cell("try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise v6kit.QueueError('no') from None")
    assert "because" not in told


def test_an_error_that_is_a_value_shows_its_sentence_and_its_causes(shell: InteractiveShell):
    """As `panel.last_error` at the end of a cell does; what is in it is no markup."""
    error = StorageError("the <lake> is away")
    error.__cause__ = OSError("no <b>disk</b>\nat all")
    shown, _ = shell.display_formatter.format(error)
    assert shown["text/plain"] == "v6kit.errors.StorageError('the <lake> is away')"
    assert shown["text/html"] == (
        "<div><b>StorageError</b> the &lt;lake&gt; is away<br>because of OSError: no &lt;b&gt;disk&lt;/b&gt;</div>"
    )


def test_a_ring_of_causes_comes_to_an_end(cell: Cell):
    """Python lets errors be each other's cause."""
    told = cell("a, b = v6kit.QueueError('a'), v6kit.QueueError('b')\na.__cause__, b.__cause__ = b, a\nraise a")
    assert told.count("because of") == 1


@pytest.mark.parametrize("magic", ["%tb", "%tb Verbose", "%tb Plain"])
def test_the_whole_traceback_is_a_magic_away(cell: Cell, magic: str):
    """In the next cell, and again."""
    assert "Traceback" not in cell("look('DU1')")
    for _ in range(2):
        whole = cell(magic)
        assert "Traceback" in whole
        assert "look('DU1')" in whole
        assert "the <lake> is away" in whole


def test_each_error_is_calm_in_its_own_cell(cell: Cell):
    """A new one is calm, also after the whole traceback of another."""
    for _ in range(2):
        assert "(%tb shows the whole traceback)" in cell("look('DU1')")
        assert "(%tb" not in cell("%tb")


def test_who_has_chosen_how_errors_look_gets_them_so(cell: Cell):
    """`%xmode` goes before our idea of calm."""
    cell("%xmode Verbose")
    assert "Traceback" in cell("look('DU1')")
    cell("%xmode Context")
    assert "Traceback" not in cell("look('DU1')")


def test_other_errors_look_as_ever(cell: Cell):
    """Only ours are calm."""
    assert "Traceback" in cell("1 / 0")


def test_a_kernel_sends_the_calm_lines_and_then_the_whole():
    """Through a real kernel, awaited from the cell: name and sentence stay for machines."""
    cells = [
        "import asyncio\n" + FAILING,
        "async def later():\n    await asyncio.to_thread(look, 'DU1')\n\nawait later()",
        "%tb",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True).execute()
    calm, whole = ([each for each in cell.outputs if each.output_type == "error"] for cell in notebook.cells[1:])
    assert (calm[0].ename, calm[0].evalue) == ("StorageError", "the <lake> is away; mount it")
    assert calm[0].traceback == [
        "StorageError: the <lake> is away; mount it",
        "  line 4: await later()",
        "  line 2 of later: await asyncio.to_thread(look, 'DU1')",
        "  line 4 of look: raise v6kit.StorageError('the <lake> is away; mount it')",
        "(%tb shows the whole traceback)",
    ]
    assert "Traceback" in "".join(whole[0].traceback)
    assert "threads.py" in "".join(whole[0].traceback)


def test_a_script_prints_the_whole_traceback():
    """Plain Python knows nothing of cells, whether IPython was imported or not."""
    for also in ("", "import IPython\n"):
        script = f"{also}{FAILING}look('DU1')\n"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("Traceback (most recent call last):")
        assert done.stderr.endswith("v6kit.errors.StorageError: the <lake> is away; mount it\n")


def test_without_a_shell_it_is_the_traceback_of_python():
    """Whoever asks outside of a notebook gets what `traceback` says."""
    InteractiveShell.clear_instance()
    assert StorageError("away")._render_traceback_() == ["v6kit.errors.StorageError: away\n"]
