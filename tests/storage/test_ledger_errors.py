"""Errors of the storage: each is mapped, none tells a secret, and unsafe storage is refused."""

from __future__ import annotations

import inspect
import traceback

import deltalake.exceptions
import polars as pl
import pytest
from tallies import SPEC, Tallies
from v6kit.errors import SchemaMismatchError, StorageError, TableMissingError, UnsafeStorageError
from v6kit.ledger import Ledger, Past, normalise
from v6kit.ledger.faults import storage_errors
from v6kit.ledger.place import refuse_unsafe
from v6kit.ledger.store import Store
from v6kit.queue import PositionQueue

SECRETS = {
    "aws_secret_access_key": "wJalrXUtnFEMI-K7MDENG",
    "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE",
    "aws_session_token": "FwoGZXIvYXdzEBYaD",
}
# A port that nobody listens on, and no patience.
UNREACHABLE = {
    "aws_region": "us-east-1",
    "aws_endpoint_url": "http://127.0.0.1:1",
    "aws_allow_http": "true",
    "max_retries": "0",
    "retry_timeout": "1s",
}

LIBRARY_ERRORS = [kind for _, kind in inspect.getmembers(deltalake.exceptions, inspect.isclass)]


@pytest.mark.parametrize("kind", LIBRARY_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_deltalake_is_mapped(kind):
    """Whatever class the library has, users meet one of ours, with the library's as its cause."""
    specific = {"TableNotFoundError": TableMissingError, "SchemaMismatchError": SchemaMismatchError}
    with pytest.raises(StorageError) as caught, storage_errors("lake/table", "testing"):
        raise kind("the library's text")
    assert type(caught.value) is specific.get(kind.__name__, StorageError)
    assert isinstance(caught.value.__cause__, kind)
    assert "lake/table" in str(caught.value)


@pytest.mark.parametrize("error", [OSError("disk"), pl.exceptions.ComputeError("parquet"), FileNotFoundError("file")])
def test_errors_of_disk_and_polars_are_mapped(error):
    """They come out of the same calls."""
    with pytest.raises(StorageError, match="testing failed at lake/table"), storage_errors("lake/table", "testing"):
        raise error


def test_a_panic_of_the_native_code_is_mapped():
    """It is no `Exception`, so it would pass every handler and end the thread."""
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(StorageError, match="index out of bounds"), storage_errors("lake/table", "testing"):
        raise panic("index out of bounds")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("wrong"), SystemExit(1)])
def test_what_is_no_storage_error_passes(error):
    """Wrong arguments and interrupts stay what they are."""
    with pytest.raises(type(error)), storage_errors("lake/table", "testing"):
        raise error


def test_secrets_are_in_no_repr_and_no_error():
    """Not in a repr, not in an error's text, not in a traceback, not down the chain of causes."""
    options = {**SECRETS, **UNREACHABLE}
    ledger = Ledger("s3://bucket/table", SPEC, Tallies, storage_options=options)
    queue = PositionQueue("s3://bucket/queue", storage_options=options)
    past = Past("s3://bucket/table", ["name"], storage_options=options)
    with pytest.raises(StorageError) as caught:
        ledger.open().result()
    ledger.close()
    queue.ledger.close()

    shown = [repr(thing) for thing in (ledger, queue, queue.ledger, past, ledger._store)]
    shown += traceback.format_exception(caught.value)
    for secret in SECRETS.values():
        assert not any(secret in text for text in shown)


@pytest.mark.parametrize(
    "options",
    [
        {"AWS_S3_ALLOW_UNSAFE_RENAME": "true"},
        {"aws_s3_allow_unsafe_rename": "1"},
        {"aws_conditional_put": "disabled"},
        {"conditional_put": "Disabled"},
    ],
)
@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_s3_without_conditional_put_is_refused_before_it_is_touched(options, scheme):
    """Two writers could overwrite each other; the error says how to make it safe."""
    with pytest.raises(UnsafeStorageError, match="remove it, so that commits use conditional put"):
        PositionQueue(f"{scheme}://bucket/queue", storage_options=options)


def test_unsafe_settings_of_the_environment_count_too(monkeypatch):
    """The library reads the environment as well as the options."""
    monkeypatch.setenv("AWS_S3_ALLOW_UNSAFE_RENAME", "true")
    with pytest.raises(UnsafeStorageError):
        Store("s3://bucket/table")
    assert Store("/tmp/table").uri == "/tmp/table"  # noqa: S108 - nothing is written


def test_safe_storage_passes():
    """The defaults of deltalake are safe, and other stores have no such option."""
    refuse_unsafe("s3://bucket/table", {"aws_conditional_put": "etag", "aws_s3_allow_unsafe_rename": "false"})
    refuse_unsafe("az://container/table", {"aws_conditional_put": "disabled"})
    refuse_unsafe("/lake/table", {"aws_s3_allow_unsafe_rename": "true"})


@pytest.mark.parametrize(
    ("given", "error"), [("", ValueError), ("  ", ValueError), (5, TypeError), (None, TypeError), (b"/lake", TypeError)]
)
def test_a_uri_that_is_none_is_refused_with_its_value(given, error):
    """The argument and the value are named."""
    with pytest.raises(error, match="uri must be a path or a URI") as caught:
        normalise(given)
    assert repr(given) in str(caught.value)


def test_a_uri_is_made_absolute_and_loses_its_last_slash(tmp_path, monkeypatch):
    """Changing the working directory later does not move the lake."""
    monkeypatch.chdir(tmp_path)
    assert normalise("lake") == str(tmp_path / "lake")
    assert normalise("s3://bucket/lake/") == "s3://bucket/lake"
    assert normalise(f"file://{tmp_path}/a%20b") == str(tmp_path / "a b")
    assert normalise(f"file://localhost{tmp_path}/a") == str(tmp_path / "a")
    assert normalise("~/lake") == str(tmp_path.home() / "lake")
