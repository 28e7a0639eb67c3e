"""The journal that `disk.c` writes, and a model of the disk that is built from it.

What the model takes for granted, and what it does not: see `Disk.after_a_power_cut`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from random import Random
from typing import NamedTuple

import psutil
import pytest

SOURCE = Path(__file__).with_name("disk.c")
MOMENTS = ("before", "within", "after")
_FIELDS = 7


def build(folder: Path) -> Path:
    """Compile the layer below a folder; return the library to preload. Skips the test where that cannot be."""
    missing = (
        "Linux" if sys.platform != "linux" else "a C compiler: apt-get install gcc" if not shutil.which("cc") else ""
    )
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the disk that kills needs {missing}")
    library = folder / "disk.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", library, SOURCE]
    subprocess.run(command, check=True)
    return library


class Step(NamedTuple):
    """One line of the journal: a call that changed something below the folder, or would have; or a note.

    Attributes:
        number: From 1; a note has that of the step before it.
        operation: `create`, `open`, `truncate`, `write`, `ftruncate`, `fsync`, `rename`, `link`, `unlink`, `mkdir`,
            `rmdir` or `note`.
        result: -1 for a call that failed.
        path: Relative to the folder; `.` is the folder itself.
        other: The new name of a rename or a link.
        offset: Of a write; the length of an `ftruncate`.
        payload: What was written; the text of a note.
    """

    number: int
    operation: str
    result: int
    path: str
    other: str
    offset: int
    payload: bytes

    @property
    def is_step(self) -> bool:
        """Whether it is no note."""
        return self.operation != "note"

    def __str__(self) -> str:
        names = [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "…", name) for name in (self.path, self.other) if name]
        return f"step {self.number}, {self.operation} {' to '.join(names)}"


def read(journal: Path, folder: Path) -> list[Step]:
    """Return what a process did below a folder, notes included, in order."""
    return list(_records(journal.read_bytes(), str(folder))) if journal.exists() else []


def _records(data: bytes, folder: str) -> Iterator[Step]:
    at = 0
    while (line_end := data.find(b"\n", at)) >= 0:
        number, operation, result, path, other, offset, size = data[at:line_end].decode().split("\t")[:_FIELDS]
        at = line_end + 1 + int(size)
        if at > len(data):
            return  # killed from outside while it wrote this
        names = [str(PurePosixPath(name).relative_to(folder)) if name else "" for name in (path, other)]
        yield Step(int(number), operation, int(result), *names, int(offset), data[line_end + 1 : at])


@dataclass(eq=False)
class Node:
    """A file or a folder: its content now, and as it was when it was last synced."""

    is_folder: bool = False
    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""

    def lose(self, how: str, chance: Random) -> bytes:
        """Return what a power cut leaves of the content; a file that was synced since its last write is whole."""
        if self.content == self.synced:
            return self.synced
        if how == "any":
            how = chance.choice(["lost", "half", "kept"])
        return {"lost": self.synced, "half": _half(bytes(self.content)), "kept": bytes(self.content)}[how]


def _half(content: bytes) -> bytes:
    """Cut a content short: between two lines if it has several, which is the cut that is hardest to notice."""
    lines = content.splitlines(keepends=True)
    if content.startswith(b"{") and len(lines) > 1:
        return b"".join(lines[: (len(lines) + 1) // 2]).rstrip(b"\n")
    return content[: len(content) // 2]


Change = dict[str, Node | None]  # names that a step gave, and took away (`None`)


class Disk:
    """What is on a disk, and what of it is certain, after the steps that it was told of."""

    def __init__(self) -> None:
        self.names: dict[str, Node] = {}
        self._certain: dict[str, Node] = {}
        self._pending: list[Change] = []

    def follow(self, steps: Iterable[Step]) -> Disk:
        """Take steps in; return itself."""
        for step in steps:
            if step.is_step and step.result >= 0:
                getattr(self, f"_{step.operation}")(step)
        return self

    def files(self) -> dict[str, bytes | None]:
        """Return what a running system sees: content by path, `None` for a folder."""
        return {name: None if node.is_folder else bytes(node.content) for name, node in self.names.items()}

    def after_a_power_cut(self, names: str, contents: str, chance: Random) -> dict[str, bytes | None]:
        """Return what may be there when the power comes back.

        Certain is what POSIX promises: the content of a file as of its last fsync, and the names in a folder as of
        that folder's last fsync. For the rest the caller chooses.

        Args:
            names: What became of names that were given and taken since: `lost`, `kept`, `ordered` (the first few of
                all these changes are there: a journal of metadata, as ext4 and xfs have it) or `scattered` (each of
                them or not, which POSIX permits).
            contents: What became of contents written since: `lost` (the file is empty, or as it was synced: delayed
                allocation on ext4 and xfs), `half` (cut short), `kept`, or `any` of these, file by file.
            chance: Decides where there is a choice.

        Not in the model: a file of the right length with other bytes (ext4 with `data=writeback`, a disk that lies
        about its cache), and the kindness of ext4 that a synced new file keeps its name without a sync of the folder.
        """
        kept = {
            "lost": list,
            "kept": lambda: self._pending,
            "ordered": lambda: self._pending[: chance.randint(0, len(self._pending))],
            "scattered": lambda: [change for change in self._pending if chance.random() < 0.5],
        }[names]()
        found = dict(self._certain)
        for change in kept:
            _apply(found, change)
        nodes = sorted(found.items())
        left = {name: None if node.is_folder else node.lose(contents, chance) for name, node in nodes}
        return {name: content for name, content in left.items() if _is_reachable(name, left)}

    def _create(self, step: Step) -> None:
        self._change({step.path: Node()})

    def _open(self, step: Step) -> None:
        """Nothing changes: the file was there."""

    def _truncate(self, step: Step) -> None:
        self.names[step.path].content.clear()

    def _write(self, step: Step) -> None:
        content = self.names[step.path].content
        content.extend(bytes(max(step.offset - len(content), 0)))
        content[step.offset : step.offset + len(step.payload)] = step.payload

    def _ftruncate(self, step: Step) -> None:
        content = self.names[step.path].content
        content.extend(bytes(max(step.offset - len(content), 0)))
        del content[step.offset :]

    def _fsync(self, step: Step) -> None:
        node = self.names.get(step.path)
        if node is not None and not node.is_folder:
            node.synced = bytes(node.content)
            return
        rest = []
        for change in self._pending:
            (self._settle if all(_folder_of(name) == step.path for name in change) else rest.append)(change)
        self._pending = rest

    def _settle(self, change: Change) -> None:
        _apply(self._certain, change)

    def _rename(self, step: Step) -> None:
        self._change({step.path: None, step.other: self.names[step.path]})

    def _link(self, step: Step) -> None:
        self._change({step.other: self.names[step.path]})

    def _unlink(self, step: Step) -> None:
        self._change({step.path: None})

    _rmdir = _unlink

    def _mkdir(self, step: Step) -> None:
        self._change({step.path: Node(is_folder=True)})

    def _change(self, change: Change) -> None:
        _apply(self.names, change)
        self._pending.append(change)


def _apply(names: dict[str, Node], change: Change) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _folder_of(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _is_reachable(name: str, names: dict[str, bytes | None]) -> bool:
    folder = _folder_of(name)
    return folder == "." or (folder in names and _is_reachable(folder, names))


def lay_out(files: dict[str, bytes | None], folder: Path) -> None:
    """Write files and folders, dated before this machine started, below a folder that has nothing else afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written_at = psutil.boot_time() - 60
    for name, content in sorted(files.items()):
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
            os.utime(folder / name, (written_at, written_at))


def found_below(folder: Path) -> dict[str, bytes | None]:
    """Return what is really there, in the form of `Disk.files`."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in paths}
