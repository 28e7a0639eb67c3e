"""`python -m tests.bench` lists the benchmarks, `python -m tests.bench NAME ...` runs some, `all` runs each.

A benchmark is a module of this folder with a docstring and a function `run() -> list[Line]`; nothing needs registering.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from types import ModuleType

from rich.console import Console

from tests import bench
from tests.bench.measure import table


def benchmarks() -> dict[str, ModuleType]:
    """Return every module of this folder that can be run."""
    names = [found.name for found in pkgutil.iter_modules(bench.__path__) if not found.name.startswith("_")]
    modules = {name: importlib.import_module(f"{bench.__name__}.{name}") for name in sorted(names)}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def main() -> None:
    """List or run benchmarks."""
    found, console = benchmarks(), Console()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Benchmarks, side by side in one run.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", choices=[*found, "all", []], help=", ".join([*found, "all"])
    )
    names = parser.parse_args().names
    if not names:
        for name, module in found.items():
            console.print(f"[bold]{name:10}[/] {(module.__doc__ or '').splitlines()[0]}")
        return
    for name in found if "all" in names else names:
        console.print(table(name, found[name].run()))


if __name__ == "__main__":
    main()
