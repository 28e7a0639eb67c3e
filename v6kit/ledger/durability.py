"""What a local disk holds for certain: syncing what was written, and mending a log after a power cut.

deltalake syncs nothing. A commit survives the end of its process at once, but a power cut only when the system has
written it back, half a minute later; until then its entry, or the file that it adds, may come back empty. So

- `sync` is called for every commit with `durable="power"`, and by upkeep of either kind before a checkpoint takes the
  place of log entries: a checkpoint always stands on synced ground;
- `mend` is called at opening. It moves aside the first entry that is torn and all that follow it, so that a prefix of
  the history remains. Only what was written before this machine started can have been torn: anything else that is wrong
  with a log, such as a file that somebody removed, is an error and no reason to move anything.

Source: the system calls of deltalake 1.6.6, and what it makes of torn files (an empty entry passes silently).
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import unquote

import psutil
from filelock import FileLock

Durable = Literal["process", "power"]
LOG = "_delta_log"
_LAST_CHECKPOINT = "_last_checkpoint"
_PARQUET = b"PAR1"  # first and last bytes of a whole Parquet file
_log = logging.getLogger("v6kit.ledger")


def check_durable(value: str) -> Durable:
    """Return how durable a commit is to be; refuse what is neither."""
    if value not in get_args(Durable):
        raise ValueError(f"durable must be 'process' (survives kill -9) or 'power' (also a power cut), got {value!r}")
    return value  # type: ignore[return-value]  # checked above


# --- syncing ----------------------------------------------------------------------------------------------------------


def sync(folder: Path, after: int, upto: int) -> None:
    """Sync the log entries of these versions, the files that they add, and what leads to them.

    Args:
        folder: The table's.
        after: The last version that is synced already.
        upto: The newest version to sync.
    """
    for version in range(after + 1, upto + 1):
        entry = _entry(folder, version)
        try:
            actions = _parsed(entry)
        except FileNotFoundError:
            continue  # a checkpoint has taken its place, and that was synced
        for add in _adds(actions or []):
            _sync_file(folder / unquote(add["path"]))
        _sync_file(entry)
    _sync_folders(folder)


def sync_log(folder: Path) -> None:
    """Sync all that the log has on top of its newest checkpoint, and the files that it adds."""
    versions, checkpoints = _versions(folder), _checkpoints(folder)
    ground = int(checkpoints[-1].name[:20]) if checkpoints else -1
    if newer := [version for version in versions if version > ground]:
        sync(folder, newer[0] - 1, newer[-1])


def sync_checkpoint(folder: Path) -> None:
    """Sync the newest checkpoint, so that log entries may go."""
    for path in (*_checkpoints(folder)[-1:], folder / LOG / _LAST_CHECKPOINT):
        _sync_file(path)
    _sync_folders(folder)


def _sync_file(path: Path) -> None:
    """Sync a file, unless it is gone by now: then what took its place was synced before."""
    with suppress(FileNotFoundError), path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folders(folder: Path) -> None:
    """Sync the entries of the log's and the table's folder, and their names in those above: the lake may be new."""
    if os.name == "nt":
        return  # Windows has no such call; NTFS journals names by itself
    _sync_folder(folder / LOG)
    _sync_folder(folder)
    for above in (folder.parent, folder.parent.parent):
        with suppress(PermissionError):  # somebody else's, whom we may pass but not read, as /home is at times
            _sync_folder(above)


def _sync_folder(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- mending ----------------------------------------------------------------------------------------------------------


def mend(folder: Path) -> None:
    """Move aside what a power cut has torn, so that the table opens with the longest whole prefix of its history.

    Args:
        folder: The table's; it need not exist, and one that is not ours is left alone.
    """
    if not is_torn(folder) or not _is_ours(folder):
        return
    with FileLock(folder / LOG / "_mend.lock"):
        torn = _torn(folder)  # another process may have mended it, and gone on
        if not torn:
            return
        shutil.rmtree(folder / "_snapshot", ignore_errors=True)  # first: it may know more than the log will
        for path in torn:
            path.replace(path.with_name(f"{path.name}.torn"))
        _sync_folders(folder)
    _log.warning(
        "the table at %s was torn by a power cut: what its log has from %s on (%d files) was moved aside as *.torn; "
        "the table goes on from what was whole before. With durable='power' no finished call can be lost like that",
        folder, torn[-1].name, len(torn),
    )  # fmt: skip


def is_torn(folder: Path) -> bool:
    """Tell whether the log of a table has something in it that a power cut has torn; reads only."""
    return (folder / LOG).is_dir() and bool(_torn(folder))


def _torn(folder: Path) -> list[Path]:
    """Return what has to go aside, newest first, so that an end in the midst of it leaves a shorter log and no gap."""
    before = _versions(folder), _checkpoints(folder)
    try:
        torn = _look(folder, *before)
        oldest = min((path.stat().st_mtime for path in torn), default=math.inf)
    except FileNotFoundError:
        return []
    # Where others work on the log right now they have mended it, and what looks like a gap is their clean-up.
    is_quiet = before == (_versions(folder), _checkpoints(folder))
    return torn if is_quiet and oldest < psutil.boot_time() else []


def _look(folder: Path, versions: list[int], checkpoints: list[Path]) -> list[Path]:
    broken = [path for path in checkpoints if not _is_whole(path, path.stat().st_size)]
    whole = [path for path in checkpoints if path not in broken]
    ground = int(whole[-1].name[:20]) if whole else -1
    versions = [version for version in versions if version > ground]
    if ground < 0 and versions and versions[0] != 0:
        return []  # nothing to stand on: this is more than a power cut does, so nothing is touched
    first = _first_torn(folder, ground, versions)
    torn = [_entry(folder, version) for version in reversed(versions) if first is not None and version >= first]
    hint = folder / LOG / _LAST_CHECKPOINT
    is_astray = hint.exists() and _hinted(hint) not in {None, *(int(path.name[:20]) for path in whole)}
    return [*torn, *([hint] if is_astray else []), *broken]


def _hinted(hint: Path) -> int | None:
    """Return the checkpoint that a hint points to; deltalake passes over a hint that cannot be read."""
    try:
        return int(json.loads(hint.read_bytes())["version"])
    except (ValueError, LookupError, TypeError):
        return None


def _is_ours(folder: Path) -> bool:
    """Tell whether a log bears v6kit's mark, or has nothing in it at all."""
    contents = [path.read_bytes() for path in (*(folder / LOG).glob("*.json"), *_checkpoints(folder))]
    return any(b"v6kit." in content for content in contents) or not any(contents)


def _first_torn(folder: Path, ground: int, versions: list[int]) -> int | None:
    """Return the lowest version whose entry, or a file that it adds, is not whole; after a gap everything is torn."""
    actions: dict[int, list[dict[str, Any]]] = {}
    torn: int | None = None
    for before, version in pairwise((ground, *versions)):
        parsed = _parsed(_entry(folder, version)) if version == before + 1 else None
        if parsed is None or not _is_complete(parsed):
            torn = version
            break
        actions[version] = parsed
    while True:  # a file that an entry removes is live again when that entry goes
        removed = {action["remove"]["path"] for parsed in actions.values() for action in parsed if "remove" in action}
        lacking = [version for version, parsed in actions.items() if not _has_files(folder, parsed, removed)]
        if not lacking:
            return torn
        torn = min(lacking)
        actions = {version: parsed for version, parsed in actions.items() if version < torn}


def _has_files(folder: Path, actions: list[dict[str, Any]], removed: set[str]) -> bool:
    live = (add for add in _adds(actions) if add["path"] not in removed)
    return all(_is_whole(folder / unquote(add["path"]), add["size"]) for add in live)


def _is_complete(actions: list[dict[str, Any]]) -> bool:
    """Tell whether an entry says all that it says of itself; one may be cut between two lines."""
    kinds = Counter(kind for action in actions for kind in action)
    info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    operation, metrics = str(info.get("operation", "")), info.get("operationMetrics", {})
    for kind, name in (("add", "num_added_files"), ("remove", "num_removed_files")):
        if name in metrics and kinds[kind] != int(metrics[name]):
            return False
    if operation == "CREATE TABLE":
        return bool(kinds["protocol"] and kinds["metaData"])
    return len(actions) > 1 or operation.startswith("VACUUM")


def _is_whole(path: Path, size: int) -> bool:
    """Tell whether a Parquet file has its size, its beginning and its end."""
    try:
        with path.open("rb") as file:
            begins = file.read(4)
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 4, 0))
            return end == size and begins == _PARQUET == file.read(4)
    except FileNotFoundError:
        return False


# --- the log's files --------------------------------------------------------------------------------------------------


def has_entry(folder: Path, version: int) -> bool:
    """Tell whether a table's log has an entry of this version."""
    return _entry(folder, version).exists()


def _entry(folder: Path, version: int) -> Path:
    return folder / LOG / f"{version:020}.json"


def _versions(folder: Path) -> list[int]:
    names = (path.stem for path in (folder / LOG).glob("*.json"))
    return sorted(int(name) for name in names if len(name) == 20 and name.isdigit())  # noqa: PLR2004 - Delta's names


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / LOG).glob("[0-9]*.checkpoint*.parquet"))


def _parsed(entry: Path) -> list[dict[str, Any]] | None:
    """Return an entry's actions, or `None` where it is torn."""
    try:
        actions = [json.loads(line) for line in entry.read_bytes().splitlines()]
    except ValueError:
        return None
    return actions if actions and all(isinstance(action, dict) for action in actions) else None


def _adds(actions: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (action["add"] for action in actions if "add" in action)
