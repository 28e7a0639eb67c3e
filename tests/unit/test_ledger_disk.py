"""How long a writer waits for its turn: while turns go round, and no longer than a second for one that stands still."""

from __future__ import annotations

from v6kit.ledger.disk import Patience


def test_turns_that_go_round_are_waited_for_however_long_it_is():
    """Eight writers on a slow machine are no reason to push in."""
    patience = Patience()
    assert not any(patience.is_used_up(turn, now=0.9 * turn) for turn in range(1_000))


def test_a_turn_that_stands_still_is_waited_for_a_second_and_not_once_more():
    """A suspended writer holds nobody up for long; the next who waits for it knows."""
    patience = Patience()
    assert [patience.is_used_up("its turn", now) for now in (5.0, 5.9, 6.0, 6.1, 900.0)] == [False] * 2 + [True] * 3


def test_who_has_gone_on_is_waited_for_again():
    """Another turn, of whomever, shows that they go round."""
    patience = Patience()
    assert not patience.is_used_up("its turn", 0.0)
    assert patience.is_used_up("its turn", 1.0)
    assert not patience.is_used_up("the next", 1.1)
    assert not patience.is_used_up("the next", 2.0)


def test_a_turn_of_ones_own_gives_new_patience():
    """Also where turns have no names, since nothing may be written down beside the table."""
    patience = Patience()
    assert not patience.is_used_up(None, 0.0)
    assert patience.is_used_up(None, 1.0)
    patience.renew()
    assert not patience.is_used_up(None, 1.1)
