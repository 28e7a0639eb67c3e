"""Where a table is: which paths and URIs there are, and which are refused before anything is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from v6kit.errors import StorageError, UnsafeStorageError

_TRUE = ("1", "true", "on", "yes", "y")  # what deltalake takes for true
_UNSAFE_OPTIONS = {
    "aws_s3_allow_unsafe_rename": _TRUE,
    "aws_conditional_put": ("disabled",),
    "conditional_put": ("disabled",),
}


def normalise(uri: str | os.PathLike[str]) -> str:
    """Return an absolute path for a local table and the URI itself for any other."""
    if not isinstance(uri, str | os.PathLike):
        raise TypeError(f"uri must be a path or a URI such as s3://bucket/lake, got {uri!r} ({type(uri).__name__})")
    text = os.fspath(uri)
    if not text.strip():
        raise ValueError(f"uri must be a path or a URI such as s3://bucket/lake, got {uri!r}")
    if text.startswith("file://"):
        text = unquote(text.removeprefix("file://").removeprefix("localhost"))
    return text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())


def refuse_unsafe(uri: str, storage_options: Mapping[str, str]) -> None:
    """Raise `UnsafeStorageError` where two writers could overwrite each other's commit."""
    if not uri.startswith(("s3://", "s3a://")):
        return
    given = {key.lower(): str(value).lower() for key, value in {**os.environ, **storage_options}.items()}
    for option, values in _UNSAFE_OPTIONS.items():
        if given.get(option) in values:
            raise UnsafeStorageError(
                f"{option}={given[option]} lets two writers overwrite each other's commit at {uri}; remove it, so that "
                "commits use conditional put (aws_conditional_put=etag, the default)"
            )


def is_local(uri: str) -> bool:
    """Tell whether a normalised place is a folder on this machine."""
    return "://" not in uri


def check_local_path(uri: str) -> None:
    """Raise `StorageError` where no table can be on a local path; other places tell by themselves."""
    if not is_local(uri):
        return
    if found := re.search(r"[\[\]]|%[0-9A-Fa-f]{2}", uri):
        # deltalake reads a path as part of a URL: it panics at brackets and looks for `a%20b` in `a b`.
        raise StorageError(f"deltalake cannot read a path with {found[0]!r} in it: {uri}; rename the folder")
    path = Path(uri)
    try:
        place = next(place for place in (path, *path.parents) if place.exists())
    except OSError as error:
        raise StorageError(f"looking at the path failed at {uri}: {error}") from error
    if not place.is_dir():
        raise StorageError(f"{place} is a file, so there can be no table at {path}; choose a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"{place} is not writable, so there can be no table at {path}; check its owner")
