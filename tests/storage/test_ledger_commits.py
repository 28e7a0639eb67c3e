"""Committing: compare-and-swap, groups, and outcomes that nobody knows at first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from datetime import timedelta
from typing import Any

import pytest
from deltalake import DeltaTable
from tallies import SPEC, Tallies, Tally, count, look
from tests.patience import DEADLINE
from v6kit.clock import FakeClock
from v6kit.errors import ContentionError, StorageError
from v6kit.ledger import Decision, Ledger, Moment
from v6kit.ledger import store as store_module
from v6kit.ledger.store import Store

pytestmark = pytest.mark.usefixtures("no_turns")  # writers are to meet here


def raise_instead_of_commit(*_args: Any, **_kwargs: Any) -> None:
    """Fail as a disk does that is full."""
    raise OSError(28, "No space left on device")


def commit_then_raise(real: Callable[..., None], error: BaseException | None = None) -> Callable[..., None]:
    """Return what commits and then loses the answer, as an object store may; or raises another error."""

    def commit(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise error or OSError(104, "Connection reset by peer")

    return commit


def held_up(ledger: Any) -> Callable[[], None]:
    """Keep the ledger's writer busy, so that what is submitted now waits together; return what lets it go on."""
    entered, go_on = threading.Event(), threading.Event()

    def hold(_state: Tallies, _moment: Moment) -> Decision[Tally, None]:
        entered.set()
        assert go_on.wait(DEADLINE)
        return Decision([], None)

    ledger.submit(hold)
    assert entered.wait(DEADLINE)
    return go_on.set


def test_two_handles_on_one_ledger_never_lose_a_change(make_ledger):
    """A change that lost the race is decided again on what the winner left."""
    one, two = make_ledger(), make_ledger()
    futures = [ledger.submit(count("SPY")) for _ in range(20) for ledger in (one, two)]

    results = [future.result(DEADLINE) for future in futures]

    assert sorted(results) == list(range(1, 41))
    one.refresh().result()
    assert one.read(look) == {"SPY": 40}


def test_a_stale_handle_decides_again_on_the_new_state(make_ledger):
    """The second decision sees what was committed by somebody else after the first look."""
    one, two = make_ledger(), make_ledger()
    one.open().result()
    two.open().result()
    two.submit(count("SPY", by=10)).result()
    seen = []

    def decide(state: Tallies, moment: Moment) -> Decision[Tally, int]:
        seen.append(look(state))
        return count("SPY")(state, moment)

    assert one.submit(decide).result() == 11
    assert seen == [{}, {"SPY": 10}]


def test_a_change_without_rows_is_decided_on_the_newest_state_and_commits_nothing(make_ledger):
    """No commit proves that the state was the newest, so it is brought up to date first."""
    one, two = make_ledger(), make_ledger()
    one.open().result()
    two.submit(count("SPY", by=3)).result()

    found = one.submit(lambda state, _moment: Decision([], look(state))).result()

    assert found == {"SPY": 3}
    assert DeltaTable(one.uri).version() == two.version


def test_a_refusal_that_was_decided_on_an_old_state_is_decided_again(make_ledger):
    """An error about what another process has mended meanwhile never reaches the caller."""
    one, two = make_ledger(), make_ledger()
    one.open().result()
    two.submit(count("SPY")).result()

    def only_if_known(state: Tallies, _moment: Moment) -> Decision[Tally, str]:
        if "SPY" not in state.rows:
            raise LookupError("SPY was never counted")
        return Decision([], "known")

    assert one.submit(only_if_known).result() == "known"


def test_changes_that_wait_go_out_together(ledger):
    """What arrives while a commit is in flight is decided in order and becomes one commit."""
    let_go = held_up(ledger)
    futures = [ledger.submit(count("SPY")) for _ in range(100)]
    before = ledger.version
    let_go()

    assert [future.result(DEADLINE) for future in futures] == list(range(1, 101))
    assert ledger.version == before + 1


def test_each_caller_of_a_group_gets_its_own_result_or_error(ledger):
    """One refusal among many changes meets the one who asked, and nothing of it is committed."""

    def refuse(_state: Tallies, _moment: Moment) -> Decision[Tally, None]:
        raise ValueError("not today")

    let_go = held_up(ledger)
    good, bad, last = ledger.submit(count("SPY")), ledger.submit(refuse), ledger.submit(count("QQQ"))
    let_go()

    assert (good.result(DEADLINE), last.result(DEADLINE)) == (1, 1)
    with pytest.raises(ValueError, match="not today"):
        bad.result(DEADLINE)
    assert ledger.read(look) == {"SPY": 1, "QQQ": 1}


def test_rows_that_no_table_takes_fail_their_own_caller_only(ledger):
    """A value that cannot be written does not take down those who share its commit."""
    let_go = held_up(ledger)
    good, bad, last = ledger.submit(count("SPY")), ledger.submit(count("\ud800")), ledger.submit(count("QQQ"))
    let_go()

    assert (good.result(DEADLINE), last.result(DEADLINE)) == (1, 1)
    with pytest.raises(UnicodeEncodeError):
        bad.result(DEADLINE)
    assert ledger.read(look) == {"SPY": 1, "QQQ": 1}


def test_seq_version_and_instant_are_stamped_in_order(make_ledger, clock):
    """Each row is counted by seq, version is Delta's own, and updated_at follows the clock but never goes back."""
    ledger = make_ledger(actor="desk-1")
    ledger.submit(count("SPY")).result()
    clock.advance(5)
    ledger.submit(count("SPY")).result()
    later = clock.now()
    clock.jump(later - timedelta(hours=1))
    ledger.submit(count("QQQ")).result()

    rows = Store(ledger.uri).rows_since(0, SPEC.empty())

    assert rows["seq"].to_list() == [1, 2, 3]
    assert rows["version"].to_list() == [1, 2, 3]
    assert rows["updated_at"].to_list() == [FakeClock().now(), later, later]
    assert rows["updated_by"].unique().to_list() == ["desk-1"]


def test_a_commit_whose_answer_was_lost_counts_once(ledger, monkeypatch):
    """The commit went through and reported an error: its caller gets the result, and nothing is written twice."""
    real = store_module.write_deltalake
    monkeypatch.setattr(store_module, "write_deltalake", commit_then_raise(real))

    assert ledger.submit(count("SPY")).result() == 1

    assert ledger.read(look) == {"SPY": 1}
    assert Store(ledger.uri).rows_since(0, SPEC.empty()).height == 1


def test_a_commit_that_failed_before_it_went_through_changes_nothing(ledger, monkeypatch):
    """The storage refused: a clear error with its cause, the old state, and the next change works."""
    with monkeypatch.context() as broken:
        broken.setattr(store_module, "write_deltalake", raise_instead_of_commit)
        with pytest.raises(StorageError, match="nothing was changed") as caught:
            ledger.submit(count("SPY")).result()

    assert "No space left" in str(caught.value)
    assert caught.value.__cause__ is not None
    assert ledger.read(look) == {}
    assert ledger.submit(count("SPY")).result() == 1


def test_an_answer_lost_together_with_a_race_is_told_apart(make_ledger, monkeypatch):
    """An error while others commit is a lost race unless the own commit id is in the log."""
    one, two = make_ledger(), make_ledger()
    one.open().result()
    two.submit(count("QQQ")).result()
    real = store_module.write_deltalake
    monkeypatch.setattr(store_module, "write_deltalake", commit_then_raise(real))

    assert one.submit(count("SPY")).result() == 1

    assert one.read(look) == {"QQQ": 1, "SPY": 1}
    assert Store(one.uri).rows_since(0, SPEC.empty()).height == 2


def test_an_unknown_outcome_is_asked_for_until_the_storage_answers(ledger, monkeypatch):
    """The storage is gone for a moment right after a commit: the outcome is settled once it is back."""
    real = store_module.write_deltalake
    refresh = Store.refresh
    silent = iter([True, True])

    def refresh_after_a_while(store: Store) -> bool:
        if next(silent, False):
            raise StorageError("no answer")
        return refresh(store)

    monkeypatch.setattr(store_module, "write_deltalake", commit_then_raise(real))
    monkeypatch.setattr(Store, "refresh", refresh_after_a_while)

    assert ledger.submit(count("SPY")).result() == 1
    assert ledger.read(look) == {"SPY": 1}


def test_an_outcome_that_stays_unknown_is_called_unknown(make_ledger, monkeypatch):
    """Storage that stays silent leads to an error that does not claim that nothing was changed."""
    ledger = make_ledger(deadline=timedelta(milliseconds=50))
    ledger.open().result()
    real = store_module.write_deltalake

    def silent(_store: Store) -> bool:
        raise StorageError("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(store_module, "write_deltalake", commit_then_raise(real))
        broken.setattr(Store, "refresh", silent)
        with pytest.raises(StorageError, match="whether it went through is not known"):
            ledger.submit(count("SPY")).result()

    assert ledger.submit(count("SPY")).result() == 2, "the first one did go through, and is seen afterwards"


def test_a_refresh_that_breaks_off_is_made_good_before_the_next_decision(make_ledger, monkeypatch):
    """New versions were seen but could not be read: no later change may be decided without them."""
    one, two = make_ledger(), make_ledger()
    one.open().result()
    two.submit(count("SPY", by=10)).result()

    def unreadable(*_args: Any) -> None:
        raise StorageError("reading new rows failed")

    with monkeypatch.context() as broken:
        broken.setattr(Store, "rows_since", unreadable)
        with pytest.raises(StorageError, match="reading new rows"):
            one.refresh().result()

    assert one.submit(count("SPY")).result() == 11
    rows = Store(one.uri).rows_since(0, SPEC.empty())
    assert rows["seq"].to_list() == [1, 2]


def test_an_opening_that_breaks_off_is_made_good_by_the_next_use(make_ledger, monkeypatch):
    """A table that could not be read is not taken for an empty one."""
    make_ledger().submit(count("SPY", by=10)).result()
    ledger = make_ledger()

    def unreadable(*_args: Any) -> None:
        raise StorageError("reading new rows failed")

    with monkeypatch.context() as broken:
        broken.setattr(Store, "rows_since", unreadable)
        with pytest.raises(StorageError, match="reading new rows"):
            ledger.open().result()
        assert not ledger.is_open

    assert ledger.submit(count("SPY")).result() == 11


def test_a_state_that_broke_while_folding_is_folded_anew(make_ledger, caplog):
    """A commit that stands is no failure, whatever its own state makes of it; the next change stands on a whole one."""

    class Fragile(Tallies):
        """Breaks when it is told to."""

        is_fragile = False

        def apply(self, rows: Any) -> Callable[[], None]:
            take_back = super().apply(rows)
            if Fragile.is_fragile:
                raise RuntimeError("halfway")
            return take_back

    ledger = make_ledger(new_state=Fragile)
    ledger.submit(count("SPY")).result()
    Fragile.is_fragile = True
    assert ledger.submit(count("SPY")).result() == 2, "a caller who is told of a failure would do it again"
    assert "halfway" in caplog.text

    with pytest.raises(RuntimeError, match="halfway"):  # as long as it stays broken, nothing is decided on it
        ledger.submit(count("SPY")).result()
    Fragile.is_fragile = False

    assert ledger.submit(count("SPY")).result() == 3
    assert ledger.read(look) == {"SPY": 3}


def test_a_commit_that_landed_is_no_failure_because_it_cannot_be_read_back(ledger, monkeypatch, caplog):
    """The answer was lost, the log says that it went through: so says its caller's result, read back later."""
    real = store_module.write_deltalake

    def unreadable(*_args: Any) -> None:
        raise StorageError("reading new rows failed")

    with monkeypatch.context() as broken:
        broken.setattr(store_module, "write_deltalake", commit_then_raise(real))
        broken.setattr(Store, "rows_since", unreadable)
        assert ledger.submit(count("SPY")).result() == 1
    assert "reading new rows failed" in caplog.text

    assert ledger.submit(count("SPY")).result() == 2
    assert Store(ledger.uri).rows_since(0, SPEC.empty())["seq"].to_list() == [1, 2]


def test_a_panic_of_native_code_after_a_commit_counts_it_once(ledger, monkeypatch):
    """A panic is no `Exception`; whether the commit went through is looked up all the same."""
    panic = type("PanicException", (BaseException,), {})
    monkeypatch.setattr(
        store_module, "write_deltalake", commit_then_raise(store_module.write_deltalake, panic("index out of bounds"))
    )

    assert ledger.submit(count("SPY")).result() == 1

    assert Store(ledger.uri).rows_since(0, SPEC.empty()).height == 1


def test_losing_every_round_until_the_deadline_is_contention(make_ledger, monkeypatch):
    """Another writer that wins each race leads to `ContentionError`, and nothing of ours is written."""
    ledger, rival = make_ledger(deadline=timedelta(milliseconds=300)), make_ledger()
    ledger.open().result()
    real = store_module.write_deltalake

    def lose(table: DeltaTable, *args: Any, **kwargs: Any) -> None:
        if threading.current_thread() is loser:
            rival.submit(count("QQQ")).result()
        real(table, *args, **kwargs)

    loser = ledger.submit(lambda _state, _moment: Decision([], threading.current_thread())).result()
    monkeypatch.setattr(store_module, "write_deltalake", lose)

    with pytest.raises(ContentionError, match="nothing was changed"):
        ledger.submit(count("SPY")).result()
    assert "SPY" not in rival.read(look)


def test_listeners_hear_every_commit_once_and_in_order(make_ledger):
    """What is there at opening, what others commit and what we commit is told once, in seq order."""
    other = make_ledger()
    other.submit(count("SPY")).result()
    other.submit(count("QQQ")).result()
    ledger = make_ledger()
    heard: list[tuple[str, int]] = []
    ledger.on_commit(
        lambda rows: heard.extend(
            (row.name, row.seq) for row in (rows if isinstance(rows, list) else SPEC.to_rows(rows))
        )
    )
    ledger.open().result()
    assert sorted(heard) == [("QQQ", 2), ("SPY", 1)]
    other.submit(count("SPY")).result()
    ledger.submit(count("IWM")).result()
    assert heard[2:] == [("SPY", 3), ("IWM", 4)]


def test_a_listener_that_fails_neither_undoes_nor_hides_a_commit(ledger, caplog):
    """The commit is durable by then, so the listener's error is logged and the result stands."""

    def fail(_rows: Any) -> None:
        raise RuntimeError("a listener's mistake")

    ledger.on_commit(fail)

    assert ledger.submit(count("SPY")).result() == 1
    assert "the commit stands" in caplog.text


def test_a_change_whose_caller_gave_up_in_time_is_not_made(ledger):
    """Cancelling a future that still waits takes the change out of the queue."""
    let_go = held_up(ledger)
    waiting = ledger.submit(count("SPY"))
    assert waiting.cancel()
    let_go()

    assert ledger.submit(count("QQQ")).result(DEADLINE) == 1
    assert ledger.read(look) == {"QQQ": 1}


def test_properties_set_by_many_at_once_are_all_accepted(make_ledger):
    """Delta refuses two changes of the properties at once; the loser tries again by itself."""
    ledgers = [make_ledger() for _ in range(3)]
    futures = [ledger.set_property("v6kit.paused", f"round {number}") for number in range(5) for ledger in ledgers]
    wait(futures, DEADLINE)

    assert [future.exception() for future in futures] == [None] * 15
    for ledger in ledgers:
        ledger.refresh().result()
    assert {ledger.property("v6kit.paused") for ledger in ledgers} == {"round 4"}


def test_refresh_sees_what_others_committed_and_reads_their_files_only(make_ledger, monkeypatch):
    """A refresh scans the files that newer versions added, never the ones that are folded already."""
    one, two = make_ledger(), make_ledger()
    for name in ("SPY", "QQQ", "IWM"):
        one.submit(count(name)).result()
    scanned: list[int] = []
    scan = Store.scan

    def watch(store: Store, files: Any, empty: Any) -> Any:
        scanned.append(files.height)
        return scan(store, files, empty)

    monkeypatch.setattr(Store, "scan", watch)
    two.submit(count("DIA")).result()
    scanned.clear()

    assert one.refresh().result() is True
    assert one.refresh().result() is False
    assert one.read(look) == {"SPY": 1, "QQQ": 1, "IWM": 1, "DIA": 1}
    assert scanned == [1]


def test_a_handle_that_slept_past_the_logs_retention_is_not_fooled(make_ledger, monkeypatch):
    """Entries that it never saw are gone from the log: it catches up by the checkpoint and decides on the truth."""
    monkeypatch.setattr(store_module, "_RETENTION", {"delta.logRetentionDuration": "interval 0 seconds"})
    sleeper, busy = make_ledger(), make_ledger()
    sleeper.open().result()
    for _ in range(30):
        busy.submit(count("SPY")).result()
    table = DeltaTable(busy.uri)
    table.create_checkpoint()
    table.cleanup_metadata()
    assert len(table.history()) < 30, "the log was not shortened, so this test shows nothing"

    assert sleeper.submit(count("SPY")).result() == 31


def test_a_handle_finishes_what_was_submitted_before_it_closes(make_ledger):
    """close() waits; everything that was accepted is durable afterwards."""
    ledger = make_ledger()
    futures = [ledger.submit(count("SPY")) for _ in range(50)]
    ledger.close()

    assert [future.result(timeout=0) for future in futures] == list(range(1, 51))


def test_an_unopened_ledger_and_a_closed_one_say_so(make_ledger):
    """Reading before opening, and anything after closing, names the way out."""
    ledger = make_ledger()
    with pytest.raises(StorageError, match="not open; await its initialize"):
        ledger.read(look)
    assert ledger.property("v6kit.paused") == ""
    ledger.open().result()
    ledger.close()
    ledger.close()
    for use in (lambda: ledger.submit(count("SPY")), ledger.refresh, lambda: ledger.set_property("v6kit.x", "y")):
        with pytest.raises(StorageError, match="is closed; make a new one"):
            use()
    assert "closed" in repr(ledger)


def test_a_prune_in_the_midst_of_closing_says_so(make_ledger, clock):
    """It found the ledger open, and the thread that is to do it has ended since."""
    ledger = make_ledger()
    ledger.open().result()
    ledger._upkeep.close()
    with pytest.raises(StorageError, match="is closed; make a new one"):
        ledger.prune(clock.now())


def test_closing_while_others_submit_loses_no_accepted_change(make_ledger):
    """Each submit is either refused or made durable; none hangs."""
    for _ in range(5):
        ledger: Ledger[Any, Any] = make_ledger()
        ledger.open().result()
        start, accepted = threading.Barrier(5), []

        def submit(ledger=ledger, start=start, accepted=accepted) -> None:
            start.wait()
            for _ in range(30):
                try:
                    accepted.append(ledger.submit(count("SPY")))
                except StorageError:
                    return

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        start.wait()
        ledger.close()
        for thread in threads:
            thread.join(DEADLINE)

        assert all(future.done() for future in accepted)
        assert all(future.exception() is None for future in accepted)
