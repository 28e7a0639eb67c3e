"""Where a table may be: what is refused before anything is touched, and with which way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from v6kit.errors import UnsafeStorageError
from v6kit.ledger.place import checked_options, is_local, normalise, options_for_polars, refuse_unsafe


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("S3://Bucket/Lake/", "s3://Bucket/Lake"),
        ("abfss://box@account.dfs.core.windows.net/lake", "abfss://box@account.dfs.core.windows.net/lake"),
        ("gs://bucket/lake", "gs://bucket/lake"),
        ("FILE:///lake/a", "/lake/a"),
    ],
)
def test_a_uri_keeps_its_place_and_loses_its_capitals_and_slashes(given, expected):
    """The scheme is written in one way, so that no check passes it by."""
    assert normalise(given) == expected
    assert is_local(expected) == expected.startswith("/")


@pytest.mark.parametrize("uri", ["memory://lake", "hdfs://node/lake", "http://host/lake", "nowhere://lake"])
def test_a_kind_of_place_that_is_not_known_to_be_safe_is_refused(uri):
    """With those that are."""
    with pytest.raises(UnsafeStorageError, match=r"use a local path, or one of s3://, .*gs://"):
        normalise(uri)


@pytest.mark.parametrize("uri", [Path("s3://bucket/lake"), "dbfs:/lake", "s3:/bucket/lake"])
def test_a_uri_that_lost_a_slash_is_no_folder(uri):
    """A `Path` makes one slash of two: it would become a folder named `s3:`."""
    with pytest.raises(ValueError, match="given as text"):
        normalise(uri)


@pytest.mark.parametrize(
    "uri", ["s3://user:hunter2@bucket/lake", "s3://bucket/lake?token=hunter2", "az://box/lake#hunter2"]
)
def test_a_uri_that_carries_a_secret_is_refused_and_not_shown(uri):
    """It would stand in every error and in every repr."""
    with pytest.raises(ValueError, match="use storage_options") as refused:
        normalise(uri)
    assert "hunter2" not in str(refused.value)


def test_an_endpoint_that_carries_a_password_is_refused_and_not_shown():
    """Errors of deltalake show the endpoint."""
    with pytest.raises(ValueError, match=r"storage_options\['aws_endpoint_url'\] must carry no password") as refused:
        refuse_unsafe("s3://bucket/lake", {"aws_endpoint_url": "http://user:hunter2@host:9000"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"AWS_ALLOW_HTTP": True},
            r"storage_options\['AWS_ALLOW_HTTP'\] must be text, such as 'true' or '3', got bool",
        ),
        (
            {"aws_secret_access_key": b"hunter2"},
            r"storage_options\['aws_secret_access_key'\] must be text, .* got bytes",
        ),
        ({5: "x"}, r"storage_options must have text for keys, got 5 \(int\)"),
        ("hunter2", "storage_options must be a mapping of text to text, got str"),
    ],
)
def test_options_that_are_no_text_are_refused_by_name_and_not_shown(given, text):
    """By itself, deltalake says that a bool is no str, and not where."""
    with pytest.raises(TypeError, match=text) as refused:
        checked_options(given)
    assert "hunter2" not in str(refused.value)
    assert checked_options(None) == {}


def test_a_locking_provider_that_nobody_obeys_is_refused(monkeypatch):
    """Another writer that locks there would not be kept apart from one that does not."""
    monkeypatch.setenv("AWS_S3_LOCKING_PROVIDER", "dynamodb")
    with pytest.raises(UnsafeStorageError, match=r"aws_s3_locking_provider=dynamodb .*remove it"):
        refuse_unsafe("s3://bucket/lake", {})
    refuse_unsafe("/lake", {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"max_retries": "3", "aws_region": "x"}, {"max_retries": 3, "aws_region": "x"}),
        ({"retry_timeout": "500ms"}, {"retry_timeout_ms": 500}),
        ({"retry_timeout": "1m 30s"}, {"retry_timeout_ms": 90_000}),
    ],
)
def test_options_reach_polars_in_its_own_words(given, expected):
    """Each is text for deltalake; Polars takes some as numbers."""
    assert options_for_polars(given) == expected
