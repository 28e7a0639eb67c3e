"""The command line: `v6kit demo`, `gateway`, `worker` and `doctor`. Shows and asks; what it shows is done elsewhere."""

from v6kit.cli.app import main

__all__ = ["main"]
