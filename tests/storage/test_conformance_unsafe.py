"""Storage that cannot keep two writers apart is refused before anything is touched; the sentence says what to do."""

from __future__ import annotations

import pytest
from stores import Do
from tallies import SPEC, Tallies, count
from v6kit.errors import UnsafeStorageError
from v6kit.ledger import Ledger
from v6kit.ledger.store import Store
from v6kit.positions import PositionBook
from v6kit.queue import PositionQueue
from v6kit.registry import StrategyRegistry

UNSAFE = [
    {"AWS_S3_ALLOW_UNSAFE_RENAME": "true"},
    {"aws_s3_allow_unsafe_rename": "1"},
    {"aws_conditional_put": "disabled"},
    {"AWS_CONDITIONAL_PUT": "DISABLED"},
    {"conditional_put": "disabled"},
]
S3 = pytest.mark.parametrize("place", ["s3"], indirect=True)


@pytest.mark.parametrize("kind", [StrategyRegistry, PositionQueue, PositionBook, Store])
@pytest.mark.parametrize("option", UNSAFE, ids=lambda option: "=".join(*option.items()))
@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_an_unsafe_option_is_refused_with_the_way_out(kind, option, scheme):
    """For every table and both names of S3: which option it is, and what to use instead."""
    with pytest.raises(
        UnsafeStorageError, match=rf"{next(iter(option)).lower()}=.*remove it.*aws_conditional_put=etag"
    ):
        kind(f"{scheme}://lake/table", storage_options=option) if kind is not Store else kind(
            f"{scheme}://lake/table", option
        )


def test_an_unsafe_environment_is_refused_as_well(monkeypatch):
    """What deltalake reads from there is looked at as well."""
    monkeypatch.setenv("AWS_S3_ALLOW_UNSAFE_RENAME", "true")
    with pytest.raises(UnsafeStorageError, match="aws_s3_allow_unsafe_rename=true"):
        PositionQueue("s3://lake/table")


@pytest.mark.parametrize("uri", ["/lake/table", "az://lake/table", "gs://lake/table"])
def test_an_option_of_s3_does_not_matter_elsewhere(uri, monkeypatch):
    """A local path and other stores are none of its business."""
    monkeypatch.setenv("AWS_S3_ALLOW_UNSAFE_RENAME", "true")
    assert Store(uri, {"conditional_put": "disabled"}).uri == uri


@S3
@pytest.mark.parametrize(
    "option", [{}, {"aws_conditional_put": "etag"}, {"aws_s3_allow_unsafe_rename": "false"}], ids=str
)
def test_what_is_safe_is_let_through_and_keeps_two_writers_apart(place, uri, option):
    """Two handles of one version: both changes are there in the end, one after the other."""
    one, two = (Ledger(uri, SPEC, Tallies, storage_options={**place.options, **option}) for _ in range(2))
    one.open().result()
    two.open().result()
    assert one.submit(count("SPY")).result() == 1
    assert two.submit(count("SPY")).result() == 2
    one.close()
    two.close()


@S3
def test_without_conditions_a_commit_is_overwritten(place, proxy, make_ledger):
    """Why the README wants a store that obeys `If-None-Match`: both writers are told that they counted, one is gone."""
    there = place.through(proxy.port).options
    one, two = make_ledger(storage_options=there), make_ledger(storage_options=there)
    one.open().result()
    two.open().result()
    held = proxy.trouble(Do.HOLD_REQUEST_FORGET_CONDITION)
    first = one.submit(count("SPY"))
    held.wait()
    assert two.submit(count("SPY")).result() == 1
    held.release()
    assert first.result() == 1
    assert Store(one.uri, place.options).rows_since(0, SPEC.empty())["count"].to_list() == [1]
