"""`v6kit lab`: JupyterLab on a copy of the notebooks that teach v6kit."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import v6kit
from v6kit.cli import terminal
from v6kit.desk.places import parse_address
from v6kit.display import counted
from v6kit.errors import V6KitError


def run(folder: Path, *, broker: str | None = None, options: Sequence[str] = ()) -> None:
    """Copy the notebooks to a folder, and serve it with JupyterLab until Ctrl-C.

    A copy, because running a notebook writes to it. One that is in the folder already is left as it is.

    Args:
        folder: Where they go; made if need be.
        broker: What `06_your_gateway` connects to, as `HOST:PORT`; the simulated gateway if it is left out.
        options: For JupyterLab.

    Raises:
        V6KitError: JupyterLab is not installed.
        ValueError: `broker` is no such address.
        OSError: The folder cannot be written to.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise V6KitError("JupyterLab is not installed beside v6kit; install it with: pip install jupyterlab")
    if broker is not None:
        parse_address(broker)
        os.environ["V6KIT_BROKER"] = broker  # kernels inherit it
    copied = copy_notebooks(folder)
    kept = "" if copied else "; those that are there already are left as they are"
    console = terminal.console()
    terminal.say(console, f"{counted(copied, 'notebook')} copied to {folder.resolve()}{kept}", whole=True)
    terminal.say(console, "Begin with 01_quickstart. Ctrl-C stops JupyterLab.")
    # In this process, so that Ctrl-C and SIGTERM reach it as they always do.
    serve = importlib.import_module("jupyterlab.labapp").main
    serve([str(folder), "--ServerApp.answer_yes=True", *options])


def copy_notebooks(folder: Path) -> int:
    """Copy the notebooks that a folder lacks, and return how many these are."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [path for path in sorted(_source().glob("*.ipynb")) if not (folder / path.name).exists()]
    for path in missing:
        shutil.copy(path, folder)
    return len(missing)


def _source() -> Path:
    """Return where the notebooks are: within the package if it is installed, beside it in a clone."""
    package = Path(v6kit.__file__).parent
    installed = package / "notebooks"
    return installed if installed.is_dir() else package.parent / "notebooks"
