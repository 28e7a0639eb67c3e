"""What is shown where no JavaScript runs: every value escaped, every part in words."""

from __future__ import annotations

from html.parser import HTMLParser

from v6kit.panels import parts, static

EVIL = "\"><img src=x onerror=alert(1)>'&lt;"


class Tags(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, _attributes):
        """Note a tag."""
        self.tags.add(tag)

    def handle_data(self, data):
        """Note a text."""
        self.text.append(data)


def test_nothing_from_the_data_becomes_markup():
    """Wherever it stands: title, strip, parts, heads, cells."""
    body = [
        parts.chips({EVIL: 3}, (), {}),
        parts.meter(EVIL, 1.0, [(EVIL, 1.0, "good")]),
        parts.steps([EVIL], EVIL, EVIL),
        parts.bars([1.0], ["good"], EVIL),
        parts.note(EVIL),
    ]
    head = {"title": EVIL, "source": EVIL}
    html = static.page(
        EVIL, "", static.picture(head, body, {"line": EVIL}, static.Table([(EVIL, "left")], [[EVIL]], 9))
    )
    read = Tags(html)
    assert read.tags == {
        "html", "head", "meta", "title", "style", "body", "div", "p", "b", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert sum(EVIL in text for text in read.text) >= 9


def test_a_picture_says_how_much_it_leaves_out():
    """Twenty rows of a thousand are not all of them."""
    head = {"title": "Queue", "source": "v1"}
    table = static.Table([("pri", "right")], [["1"], ["2"]], 1000)
    assert "the first 2 of 1,000 rows" in static.picture(head, [], {}, table)
    assert "rows" not in static.picture(head, [], {}, table._replace(total=2))


def test_steps_say_where_they_are_in_words():
    """Colour is never alone."""
    part = parts.steps(["claim", "fetch", "book"], "fetch", "35 in flight")
    assert static.parts.static(part) == "<p>✓ claim → ▸ fetch → · book · 35 in flight</p>"
    rest = parts.steps(["claim", "fetch"], "idle", "idle")
    assert [state for _, state in rest["steps"]] == ["todo", "todo"]


def test_a_small_table_stays_a_table():
    """Its columns are as aligned as on the screen, and what is in it never becomes markup."""
    part = parts.table("legs of 1", [("leg", False), ("qty", True)], [["<b>", "+4"]], ["good"])
    assert static.parts.static(part) == (
        "<p>legs of 1</p><table><thead><tr><th align='left'>leg</th><th align='right'>qty</th></tr></thead>"
        "<tbody><tr><td align='left'>&lt;b&gt;</td><td align='right'>+4</td></tr></tbody></table>"
    )
    assert static.parts.static(parts.table("no legs", [("leg", False)], [], [])) == "<p>no legs</p>"
