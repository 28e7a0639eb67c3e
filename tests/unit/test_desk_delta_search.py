"""Looking for a delta among strikes, probe by probe; what is asked over TCP is in tests/gateway."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from v6kit.desk.options import DeltaSearch, spread

DELTAS = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=120)


def searched(deltas: list[float | None], size: float) -> tuple[int | None, list[list[int]]]:
    """Return the strike that is found, and what was asked for in each round."""
    search, rounds = DeltaSearch(len(deltas), size), []
    while probes := search.probes():
        rounds.append(probes)
        search.learn({at: deltas[at] for at in probes})
    return search.nearest(), rounds


def test_probes_are_spread_and_close_in():
    """Both ends are probed, then only what lies around the nearest."""
    assert spread(0, 48, 5) == [0, 12, 24, 36, 48]
    assert spread(3, 4, 5) == [3, 4]
    assert spread(7, 7, 5) == [7]
    search = DeltaSearch(49, 0.16)
    search.learn({0: 0.9, 12: 0.6, 24: 0.3, 36: 0.1, 48: 0.0})
    assert search.probes() == [27, 30, 33]


@given(deltas=DELTAS, size=st.floats(0.01, 0.99), puts=st.booleans())
def test_the_nearest_is_found_and_nothing_is_asked_for_twice(deltas: list[float], size: float, *, puts: bool):
    """Whether deltas fall, as of calls, or grow in size, as of puts; of equal ones any."""
    ordered = sorted((-each for each in deltas), reverse=True) if puts else sorted(deltas, reverse=True)
    found, rounds = searched(list(ordered), size)
    assert found is not None
    best = min(abs(abs(each) - size) for each in ordered)
    assert abs(abs(ordered[found]) - size) == best
    asked = [at for probes in rounds for at in probes]
    assert len(asked) == len(set(asked))
    assert all(len(probes) <= 5 for probes in rounds)


def test_thirty_strikes_take_two_rounds():
    """A snapshot may take eleven seconds, so rounds are what counts."""
    _, rounds = searched([1 - at / 30 for at in range(30)], 0.16)
    assert len(rounds) <= 3
    assert sum(map(len, rounds)) <= 12


@given(silent=st.tuples(st.integers(0, 23), st.integers(25, 49)), size=st.floats(0.01, 0.99))
def test_strikes_without_a_delta_are_passed_over(silent: tuple[int, int], size: float):
    """Deep in and far out of the money nobody quotes: the nearest of those that are quoted is found, up to the last."""
    whole = [1 - at / 49 for at in range(49)]
    deltas = [delta if silent[0] <= at < silent[1] else None for at, delta in enumerate(whole)]
    found, _ = searched(deltas, size)
    assert found is not None
    assert abs(whole[found] - size) == min(abs(each - size) for each in whole[silent[0] : silent[1]])


@given(quoted=st.sets(st.integers(1, 47), max_size=20), size=st.floats(0.01, 0.99))
def test_strikes_without_a_delta_in_between_do_not_end_the_search(quoted: set[int], size: float):
    """Between two that are quoted, the nearest of all is found: one far off would be another trade."""
    whole = [1 - at / 49 for at in range(49)]
    deltas = [delta if at in quoted | {0, 48} else None for at, delta in enumerate(whole)]
    found, rounds = searched(deltas, size)
    assert found is not None
    assert abs(whole[found] - size) == min(abs(delta - size) for delta in deltas if delta is not None)
    asked = [at for probes in rounds for at in probes]
    assert len(asked) == len(set(asked))


def test_where_no_delta_comes_at_all_nothing_is_found():
    """And the search ends."""
    found, rounds = searched([None] * 30, 0.16)
    assert found is None
    assert rounds[0] == [0, 7, 14, 22, 29]
