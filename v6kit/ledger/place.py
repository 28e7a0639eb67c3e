"""Where a table is: which paths and URIs there are, and which are refused before anything is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from v6kit.errors import StorageError, UnsafeStorageError

_TRUE = ("1", "true", "on", "yes", "y")  # what deltalake takes for true
_SAFE_SCHEMES = ("s3", "s3a", "az", "abfs", "abfss", "gs")  # an entry that exists is never overwritten there
_S3 = ("s3", "s3a")
_UNSAFE_OPTIONS = {
    "aws_s3_allow_unsafe_rename": _TRUE,
    "aws_conditional_put": ("disabled",),
    "conditional_put": ("disabled",),
}
_LOCKING = "aws_s3_locking_provider"
_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


def normalise(uri: str | os.PathLike[str]) -> str:
    """Return an absolute path for a local table and the URI itself, its scheme in small letters, for any other.

    Raises:
        UnsafeStorageError: A kind of place where two writers may overwrite each other's commit, for all that is known.
        ValueError: Empty, or a URI that carries a password or a query: it would show in every error.
    """
    if not isinstance(uri, str | os.PathLike):
        raise TypeError(f"uri must be a path or a URI such as s3://bucket/lake, got {uri!r} ({type(uri).__name__})")
    text = os.fspath(uri)
    if not text.strip():
        raise ValueError(f"uri must be a path or a URI such as s3://bucket/lake, got {uri!r}")
    if text.lower().startswith("file://"):
        text = unquote(text[len("file://") :].removeprefix("localhost"))
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)  # two letters at least: a drive has one
    if scheme is None:
        return str(Path(text).expanduser().absolute())
    if not text.startswith(f"{scheme[1]}://"):
        raise ValueError(f"uri must be a path or a URI such as s3://bucket/lake, given as text, got {uri!r}")
    kind, rest = scheme[1].lower(), text[len(scheme[1]) + len("://") :].rstrip("/")
    if kind not in _SAFE_SCHEMES:
        raise UnsafeStorageError(
            f"it is not known that {kind}:// keeps two writers from overwriting each other's commit; use a local path, "
            f"or one of {', '.join(f'{name}://' for name in _SAFE_SCHEMES)}"
        )
    _refuse_secrets("uri", f"{kind}://{rest}")
    return f"{kind}://{rest}"


def _refuse_secrets(what: str, address: str) -> None:
    parts = urlsplit(address)
    if parts.password is not None or parts.query or parts.fragment:
        raise ValueError(f"{what} must carry no password and no query, since it shows in errors; use storage_options")


def checked_options(storage_options: Mapping[str, str] | None) -> dict[str, str]:
    """Return options, none for `None`; their values are never shown, since some are secrets.

    Raises:
        TypeError: They are no mapping of text to text, as deltalake wants it: `{"AWS_ALLOW_HTTP": "true"}`.
    """
    options = {} if storage_options is None else storage_options
    if not isinstance(options, Mapping):
        raise TypeError(f"storage_options must be a mapping of text to text, got {type(options).__name__}")
    for key, value in options.items():
        if not isinstance(key, str):
            raise TypeError(f"storage_options must have text for keys, got {key!r} ({type(key).__name__})")
        if not isinstance(value, str):
            raise TypeError(f"storage_options[{key!r}] must be text, such as 'true' or '3', got {type(value).__name__}")
    return dict(options)


def refuse_unsafe(uri: str, storage_options: Mapping[str, str]) -> None:
    """Refuse settings under which two writers could overwrite each other's commit, or a password would show.

    Raises:
        UnsafeStorageError: With the setting and the way out.
        ValueError: An endpoint carries a password.
    """
    if is_local(uri):
        return
    for key, value in storage_options.items():
        if "endpoint" in key.lower():
            _refuse_secrets(f"storage_options[{key!r}]", str(value))
    if not uri.startswith(tuple(f"{scheme}://" for scheme in _S3)):
        return
    given = {key.lower(): str(value).lower() for key, value in {**os.environ, **storage_options}.items()}
    for option, values in _UNSAFE_OPTIONS.items():
        if given.get(option) in values:
            raise UnsafeStorageError(
                f"{option}={given[option]} lets two writers overwrite each other's commit at {uri}; remove it, so that "
                "commits use conditional put (aws_conditional_put=etag, the default)"
            )
    if given.get(_LOCKING):
        raise UnsafeStorageError(
            f"{_LOCKING}={given[_LOCKING]} is not obeyed by deltalake any more, so a writer that locks there would not "
            f"be kept apart from this one at {uri}; remove it, so that all use conditional put"
        )


def options_for_polars(storage_options: Mapping[str, str]) -> dict[str, str | int]:
    """Return the options as Polars takes them: deltalake takes each as text, Polars some as numbers, or by other names.

    Source: tried with Polars 2.1, whose own retries have these two settings.
    """
    options: dict[str, str | int] = dict(storage_options)
    if "max_retries" in options:
        options["max_retries"] = int(options["max_retries"])
    if "retry_timeout" in options:
        spans = re.findall(r"(\d+)\s*(ms|s|m|h)", str(options.pop("retry_timeout")))
        options["retry_timeout_ms"] = sum(int(number) * _MILLISECONDS[unit] for number, unit in spans)
    return options


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
