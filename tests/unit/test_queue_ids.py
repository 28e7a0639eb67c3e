"""Request ids: UUIDs that sort by age."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from v6kit.queue.ids import RequestIds

START = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


def test_ids_are_uuids_of_version_7():
    """Version, variant and time stand where RFC 9562 puts them."""
    for known in RequestIds().take(1_000, START):
        parsed = uuid.UUID(known)
        assert str(parsed) == known
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122
        assert parsed.int >> 80 == int(START.timestamp() * 1000)


def test_ids_are_unique_and_sorted_within_one_call_and_over_calls():
    """Also within one millisecond."""
    ids = RequestIds()
    taken = [known for _ in range(5) for known in ids.take(20_000, START)]
    assert taken == sorted(set(taken))


def test_two_makers_never_make_the_same_id():
    """Two processes in the same millisecond differ in 40 random bits per id."""
    one, two = RequestIds().take(10_000, START), RequestIds().take(10_000, START)
    assert not set(one) & set(two)


@pytest.mark.parametrize("before", [1, 3, 5])
def test_ids_go_on_increasing_where_the_counter_rolls_over(before):
    """After 2^32 ids the counter starts again, and the time moves ahead by a millisecond."""
    ids = RequestIds()
    ids._next = 2**32 - before
    taken = [known for _ in range(4) for known in ids.take(3, START)]
    assert taken == sorted(set(taken))
    assert all(uuid.UUID(known).version == 7 for known in taken)


@given(st.lists(st.tuples(st.integers(-5_000, 5_000), st.integers(0, 5)), max_size=20))
def test_ids_increase_even_if_the_clock_goes_back(steps):
    """The newest time that was seen counts."""
    ids, now, taken = RequestIds(), START, []
    for milliseconds, count in steps:
        now += timedelta(milliseconds=milliseconds)
        taken += ids.take(count, now)
    assert taken == sorted(set(taken))


def test_no_ids_are_made_when_none_are_wanted():
    """Zero is a number."""
    assert RequestIds().take(0, START) == []
