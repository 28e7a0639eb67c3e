"""The command line: `v6kit demo`, `lab`, `gateway`, `worker`, `doctor` and `reconcile`.

Shows and asks; what it shows is done elsewhere.
"""

from v6kit.cli.app import main

__all__ = ["main"]
