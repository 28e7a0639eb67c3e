"""Processes that run a scene over the layer, and end at the step where they are told to.

A server is started with the layer preloaded and imports everything once; each child is a fork of it, so a kill costs a
few hundredths of a second instead of the second that the imports take.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SCENES = Path(__file__).with_name("scenes.py")


class Server:
    """A process that makes children, one at a time.

    Args:
        library: The compiled layer.
    """

    def __init__(self, library: Path) -> None:
        environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, str(SCENES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, scene: str, **options: Any) -> int:
        """Run a scene in a child of its own; return how it ended, as `subprocess` does: 0, or -9 for SIGKILL."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"scene": scene} | options, default=str) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the server of children has died"
        return int(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            if kind is not None:
                self._process.kill()


@contextmanager
def servers(library: Path, count: int) -> Iterator[list[Server]]:
    """Start several servers; they are gone afterwards."""
    started = [Server(library) for _ in range(count)]
    try:
        yield started
    finally:
        for server in started:
            server.__exit__(None, None, None)
