"""The gateway's framing and field reading: pure, no socket."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from v6kit.gateway.requests import ContractQuery, MarketDataRequest, request_id
from v6kit.gateway.wire import (
    API_SIGN,
    LENGTH,
    MAX_FRAME,
    Fields,
    FrameReader,
    WireError,
    frame,
    negotiate,
    number,
    texts,
)

FIELD = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=20)
MESSAGES = st.lists(st.lists(FIELD, min_size=1, max_size=6), max_size=8)


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut bytes at places that are given in any order."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def read_all(reader: FrameReader) -> list[bytes]:
    """Take out all complete bodies."""
    bodies = []
    while (body := reader.next_body()) is not None:
        bodies.append(body)
    return bodies


@given(MESSAGES, st.lists(st.integers(min_value=0), max_size=12))
def test_messages_survive_any_chunking(messages: list[list[str]], cuts: list[int]) -> None:
    """Whatever way TCP cuts or joins the stream, the same messages come out."""
    stream = API_SIGN + b"".join(frame(tuple(message)) for message in messages)
    reader = FrameReader()
    found: list[bytes] = []
    for chunk in chunks(stream, cuts):
        reader.feed(chunk)
        found += read_all(reader)
    assert [list(Fields(body)) for body in found] == messages


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_refused_or_waited_for_but_never_breaks_the_reader(data: bytes) -> None:
    """Any bytes give frames, a wait for more, or `WireError`, and no other error."""
    reader = FrameReader()
    reader.feed(data)
    try:
        read_all(reader)
        refused = False
    except WireError:
        refused = True
    assert refused or API_SIGN.startswith(data[: len(API_SIGN)])


@pytest.mark.parametrize("opening", [b"GET / HTTP/1.1", b"A\0", b"\0", b"API "])
def test_a_stream_that_does_not_open_with_the_api_sign_is_refused(opening: bytes) -> None:
    """A browser or a port scanner is told apart at its first wrong byte."""
    reader = FrameReader()
    reader.feed(opening)
    with pytest.raises(WireError, match="must open with"):
        reader.next_body()


@pytest.mark.parametrize("length", [0, MAX_FRAME + 1, 2**32 - 1])
def test_a_frame_of_impossible_length_is_refused_before_its_bytes_arrive(length: int) -> None:
    """An oversized frame costs no memory: its length alone is enough."""
    reader = FrameReader()
    reader.feed(API_SIGN + LENGTH.pack(length))
    with pytest.raises(WireError, match=str(length)):
        reader.next_body()


@pytest.mark.parametrize(
    ("offer", "version"),
    [(b"v157..178", 178), (b"v100..157", 157), (b"v157..999", 178), (b"v160 +PACEAPI", 160), (b"v163..170\0", 170)],
)
def test_the_highest_common_version_is_negotiated(offer: bytes, version: int) -> None:
    """Old and new clients each get the newest version that both sides speak."""
    assert negotiate(offer) == version


@pytest.mark.parametrize("offer", [b"v100..156", b"v179..200", b"v", b"178", b"v12x", b"\xff\xff"])
def test_an_offer_without_a_common_version_is_refused(offer: bytes) -> None:
    """A client that speaks only older or newer versions, or none, is sent away."""
    with pytest.raises(WireError):
        negotiate(offer)


def test_whole_numbers_are_written_without_a_point() -> None:
    """Old clients read sizes and positions as integers."""
    assert texts((1, 5.0, -3.0, 0.25, "C", 1e16)) == ("1", "5", "-3", "0.25", "C", "1e+16")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_never_sent(value: float) -> None:
    """NaN and infinity have no place on IB's wire."""
    with pytest.raises(ValueError, match="must be finite"):
        number(value)


@pytest.mark.parametrize("body", [b"", b"71\x002", b"71\0\xff\xfe\0"])
def test_a_body_that_is_no_list_of_texts_is_refused(body: bytes) -> None:
    """A missing end or bytes that are no UTF-8 are garbage."""
    with pytest.raises(WireError):
        Fields(body)


def test_a_field_that_cannot_be_read_is_named_with_its_value() -> None:
    """The client's author learns which field was wrong."""
    fields = Fields(b"9\x008\x00seven\x001.5x\0")
    with pytest.raises(WireError, match="field 2 of message 9 must be an integer, got 'seven'"):
        fields.integer(2)
    with pytest.raises(WireError, match="field 3 of message 9 must be a number"):
        fields.decimal(3)
    with pytest.raises(WireError, match="more than 4 fields, got 4"):
        fields.text(4)


@given(st.lists(st.one_of(FIELD, st.integers().map(str), st.floats().map(str), st.sampled_from(["", "BAG", "1"]))))
def test_any_fields_are_read_or_refused_but_never_break_a_request(texts: list[str]) -> None:
    """A request's parser meets any fields with a value or with `WireError`, and no other error."""
    fields = Fields(frame(("1", *texts))[LENGTH.size :])
    for read in (MarketDataRequest.parse, ContractQuery.parse, request_id):
        try:
            read(fields)
        except WireError as error:
            assert "message 1 must" in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(text: str) -> None:
    """No such number may reach a price or an answer."""
    with pytest.raises(WireError, match="field 1 of message 9 must be a number"):
        Fields(f"9\0{text}\0".encode()).decimal(1)


def test_an_empty_field_is_zero() -> None:
    """IB's clients send nothing for a number that is not set."""
    fields = Fields(b"1\0\0\0")
    assert (fields.integer(1), fields.decimal(2), fields.flag(1)) == (0, 0.0, False)


def test_a_market_data_request_is_read_behind_combination_legs_and_hedge() -> None:
    """Variable parts in the middle do not shift the fields that follow."""
    contract = ["0", "SPY", "BAG", "", "0", "", "", "SMART", "", "USD", "", ""]
    legs = ["2", "11", "1", "BUY", "SMART", "12", "1", "SELL", "SMART"]
    message = ["1", "11", "42", *contract, *legs, "1", "99", "0.5", "10", "", "1", "0", ""]
    request = MarketDataRequest.parse(Fields(frame(tuple(message))[LENGTH.size :]))
    assert (request.req_id, request.query.symbol, request.snapshot, request.regulatory) == (42, "SPY", True, False)


def test_the_request_id_of_an_unknown_message_is_found_where_ib_puts_it() -> None:
    """Messages with a version carry it third, messages without one second, and some have none."""
    assert request_id(Fields(b"25\x001\x007\0")) == 7
    assert request_id(Fields(b"20\x007\x00x\0")) == 7
    assert request_id(Fields(b"58\x001\0")) == -1
