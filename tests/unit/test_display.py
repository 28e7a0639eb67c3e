"""Cards: what is escaped, cut and aligned, and what an object shows when its look fails."""

from __future__ import annotations

from datetime import datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from v6kit.clock import FakeClock
from v6kit.display import Card, Shown, Table, among, counted, number, span
from v6kit.errors import StorageError
from v6kit.positions import BookRow
from v6kit.queue import QueuedPosition, QueueStats, Status
from v6kit.sync.report import report

NOW = FakeClock().now()
ATTACK = "\"><img src=x onerror=alert(1)>'</script>\x1b[31m\n\ud800"


class Tags(HTMLParser):
    """The tags and the attributes' names of a page, and whether every tag was closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        """Note the tag."""
        self.open.append(tag)
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        """It closes the one that was opened last."""
        assert self.open.pop() == tag


def check_harmless(page: str) -> None:
    """A page of nothing but our own tags, which can be sent to a browser."""
    tags = Tags(page)
    assert not tags.open
    assert tags.seen <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}
    assert tags.attributes <= {"style"}
    page.encode()
    assert "\x1b" not in page


@given(text=st.text() | st.just(ATTACK))
def test_no_text_can_become_markup_or_move_the_terminal(text: str):
    """Wherever it stands on a card: a symbol, an error message, a strategy's id or a path."""
    table = Table((text, "n"), [(text, text), ("x", text)], numbers=["n"])
    card = Card(text, warnings=[text], facts={text: text}, notes=[text], tables=[table], folds={text: table})
    check_harmless(card.html())
    card.text().encode()
    assert all(line.isprintable() for line in card.text().split("\n"))


def test_a_card_as_text():
    """Title, what is wrong, facts and tables, columns aligned, and how much was left out."""
    card = Card(
        "Queue",
        warnings=["paused: lunch"],
        facts={"table": "lake", "n": "3"},
        notes=["by hand"],
        tables=[Table(("name", "count"), [("a", "1"), ("long", "1,000")], more=1_200, numbers=["count"])],
        folds={"more": Table(("hidden",), [("x",)])},
    )
    assert card.text() == (
        "Queue\n! paused: lunch\n  table  lake\n  n      3\nby hand\n\n"
        "name  count\na         1\nlong  1,000\n... and 1,200 more"
    )


def test_a_card_as_html_has_the_same_and_what_is_folded():
    """What is wrong has a sign, not only a colour; colours are Jupyter's, with others to fall back on."""
    html = Card("Queue", warnings=["paused"], facts={"n": "3"}, folds={"legs of 1": Table(("leg",), [("A",)])}).html()
    for part in ("<b>Queue</b>", "⚠ paused", "<summary>legs of 1</summary>", ">A</td>", "var(--jp-error-color1,#"):
        assert part in html
    check_harmless(html)


def test_a_long_cell_is_cut_on_the_card():
    """An error message of a page does not fill the screen."""
    card = Card("x", tables=[Table(("problem",), [("why " * 1_000,)])])
    assert len(card.text()) < 400
    assert card.text().endswith("…")


def test_a_look_that_fails_shows_the_sentence():
    """A table may be closed by another thread just now; a cell says so."""

    class Closed(Shown):
        def _card(self) -> Card:
            raise StorageError("the lake <is> closed")

    assert repr(Closed()) == "Closed\n! the lake <is> closed"
    assert "the lake &lt;is&gt; closed" in Closed()._repr_html_()


def test_what_forgets_to_say_what_it_shows_is_a_mistake():
    """Which a test of it finds."""
    with pytest.raises(TypeError, match="Shown must say what is on its card"):
        repr(Shown())


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0.0 s"),
        (4.21, "4.2 s"),
        (59.99, "59.9 s"),
        (60, "1 min"),
        (664, "11 min 4 s"),
        (3_600, "1 h"),
        (7_500, "2 h 5 min"),
        (266_400, "3 d 2 h"),
    ],
)
def test_a_span_is_told_in_two_units(seconds: float, told: str):
    """The largest two that are not zero; never 60 of one."""
    assert span(timedelta(seconds=seconds)) == told


def test_a_number_that_is_not_known_is_left_out():
    """It is no zero."""
    assert (number(None), number(1234.5), number(-2.0, "+g")) == ("", "1,234.50", "-2")


def test_one_is_not_counted_as_many():
    """Zero is: it takes the plural, as does everything but one."""
    told = [counted(count, "leg") for count in (0, 1, 2, 2_000)]
    assert told == ["0 legs", "1 leg", "2 legs", "2,000 legs"]
    assert [counted(count, "strategy", "strategies") for count in (1, 3)] == ["1 strategy", "3 strategies"]


def test_a_wrong_name_gets_near_ones_and_what_there_is():
    """So that a typing error is mended at once; long lists are cut."""
    assert among("condr-1", ["condor-1", "fly"]) == "did you mean 'condor-1'? known are condor-1, fly"
    assert among("x", [], "active") == "active are none"
    assert among("x", map(str, range(14))).endswith("7, 8, 9, and 4 more")


# --- values that show themselves --------------------------------------------------------------------------------------


def queued(**fields: Any) -> QueuedPosition:
    """Return a request that a worker holds."""
    known = dict.fromkeys(QueuedPosition._fields)
    instants = dict.fromkeys(("created_at", "available_at", "due_at", "updated_at"), NOW)
    return QueuedPosition(
        **known
        | instants
        | {"request_id": "r1", "conid": 9, "symbol": "SPY C 9", "priority": 1, "status": "PROCESSING", "account": ""}
        | {"attempt": 2, "max_attempts": 5, "worker_id": "w", "lease_until": NOW, "change": "CLAIM", "version": 4}
        | {"updated_by": "me"}
        | fields
    )


def test_a_request_shows_where_it_stands_and_where_its_past_is():
    """Why it failed last, who holds it until when, and the call that shows every state."""
    card = queued(error_message="no <line>", account="DU1")._card()
    assert card.text() == (
        "Request r1\n"
        "! no <line>\n"
        "  contract     SPY C 9 (conid 9, DU1)\n"
        "  status       PROCESSING, attempt 2 of 5, priority 1\n"
        "  queued       2026-11-20 14:30:00 UTC\n"
        "  due          2026-11-20 14:30:00 UTC\n"
        "  claimed by   w, lease until 2026-11-20 14:30:00 UTC\n"
        "  last change  CLAIM at 2026-11-20 14:30:00 UTC by me (v4)\n"
        '  every state  desk.history("position_queue").timeline("r1")'
    )
    assert "not before" in queued(status="PENDING")._repr_html_()
    check_harmless(queued(symbol=ATTACK, error_message=ATTACK, worker_id=ATTACK, account=ATTACK)._repr_html_())


def test_a_queue_in_numbers_says_what_is_wrong_first():
    """Paused, and leases that have ended, before counts by status and priority."""
    stats = QueueStats(
        by_status=dict.fromkeys(map(str, Status), 0) | {"PENDING": 12_345, "FAILED": 7},
        by_priority={1: 45, 2: 12_300},
        oldest_pending=timedelta(seconds=664),
        expired_leases=3,
        retries=9,
        finished_last_minute=50,
        paused="lunch <b>",
    )
    assert repr(stats) == (
        "QueueStats\n"
        "! paused: lunch <b>\n"
        "! 3 expired leases; the next claim takes them\n"
        "  oldest      due for 11 min 4 s\n"
        "  retries     9\n"
        "  throughput  50 ended within the last minute\n"
        "\n"
        "PENDING  PROCESSING  SUCCESS  FAILED  CANCELLED\n"
        " 12,345           0        0       7          0\n"
        "\n"
        "priority    live\n"
        "       1      45\n"
        "       2  12,300"
    )
    assert "⚠ paused: lunch &lt;b&gt;" in stats._repr_html_()


def test_a_position_shows_what_is_known_of_it_and_no_more():
    """Fields without a value are left out, and numbers keep the digits that were quoted."""
    known = dict.fromkeys(BookRow._fields) | {
        "account": "DU1", "conid": 101, "symbol": "SPY", "right": "C", "strike": 595.0, "expiry": "20261218",
        "position": -2.0, "currency": "USD", "attempt": 0, "multiplier": 100.0,
    }  # fmt: skip
    row = BookRow(**known)
    assert row._card().text() == (
        "SPY 261218 C 595\n"
        "  account      DU1\n"
        "  conid        101\n"
        "  position     -2\n"
        "  quality      no quote yet\n"
        '  every state  desk.history("position_updates").timeline("DU1", 101)'
    )
    quoted = row._replace(
        avg_cost=118.0, bid=5_976.25, ask=5_976.75, mark=5_976.5, mark_source="mid", market_value=-1.5, delta=0.25,
        unrealized_pnl=3.0, quality="ok", source="stream", received_at=NOW, error_code=10167,
    )  # fmt: skip
    for part in (
        "-2 at 118.00", "bid 5,976.25, ask 5,976.75, mark 5,976.5 (mid)", "-1.50 USD", "+3.00", "delta 0.25",
        "ok, code 10167", "stream at 2026-11-20 14:30:00 UTC",
    ):  # fmt: skip
        assert part in quoted._card().text()
    check_harmless(row._replace(symbol=ATTACK, account=ATTACK)._repr_html_())


def test_a_cycle_is_one_line_of_text_and_a_card_in_a_cell():
    """The card has the problems, and the call that shows what the cycle changed in the queue."""
    facts = {"cycle": 3, "started_at": NOW, "seconds": 0.5, "claimed": 6, "in_flight": 1}
    made = report([], [], **facts, versions=(3, 5), held_back="the link <is> down")
    assert repr(made) == (
        "Cycle 3: 6 claimed, 0 refreshed, 1 in flight, nothing new claimed: the link <is> down in 0.5 s (queue v3 → v5)"
    )
    html = made._repr_html_()
    for part in (".diff(3, 5)", "⚠ nothing new claimed: the link &lt;is&gt; down", "14:30:00 UTC, took 0.5 s"):
        assert part in html
    quiet = report([], [], **facts, versions=(5, 5), held_back="")
    assert "diff" not in quiet._repr_html_()
    troubled = report([], [], **facts, versions=(5, 5), held_back="")
    troubled.problems.update({f"{ATTACK}{count}": count for count in range(14)})
    assert "... and 4 more" in troubled._repr_html_()
    check_harmless(troubled._repr_html_())


def test_no_display_tells_an_instant_that_is_no_data():
    """Two looks at the same thing are the same text."""
    one, other = (queued(updated_at=datetime.fromisoformat("2026-11-20T14:30:00+00:00"))._card() for _ in range(2))
    assert (one.text(), one.html()) == (other.text(), other.html())
