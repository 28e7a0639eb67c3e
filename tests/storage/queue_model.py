"""The queue as it is promised to behave, in plain dictionaries: slow, and short enough to be read as such.

Each method of the model has the name of the call that it describes. It answers what the call must answer, raises what
the call must raise, and leaves in `changes` what the call must write. Where only chance decides, which is the text of
new ids, it takes over what the call came up with, and checks that it is new.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ledger_model import Made, Refused, Row
from v6kit.errors import InvalidTransitionError, QueueError, RequestNotFoundError, StaleClaimError
from v6kit.ledger import NO_INSTANT

FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=5), timedelta(seconds=60)
LIVE = ("PENDING", "PROCESSING")
VERBS = {"SUCCESS": "SUCCESS", "FAILED": "FAILED", "CANCELLED": "CANCEL"}
USED_UP = "attempts used up"
UNKNOWN = "00000000-0000-7000-8000-000000000000"

Claim = tuple[str, str | None]  # a request's id, and the claim_id to fence a change by


class Request(NamedTuple):
    """What a row of the table says, apart from seq, version and who changed it when."""

    request_id: str
    conid: int
    symbol: str
    priority: int
    status: str
    created_at: datetime
    error_message: str | None
    account: str
    attempt: int
    max_attempts: int
    available_at: datetime
    due_at: datetime
    claim_id: str | None
    worker_id: str | None
    lease_until: datetime | None
    change: str

    @classmethod
    def of(cls, row: Row) -> Request:
        """Return what a row says; the wording of why attempts were used up is not the model's business."""
        fields = {name: row[name] for name in cls._fields}
        if (fields["error_message"] or "").startswith(USED_UP):
            fields["error_message"] = USED_UP
        return cls(**fields)

    @property
    def contract(self) -> tuple[str, int]:
        """What at most one live request is for."""
        return self.account, self.conid

    def is_due(self, now: datetime) -> bool:
        """Tell whether it may be claimed: it waits and its time has come, or the lease of who has it is over."""
        if self.status == "PENDING":
            return self.available_at <= now
        return self.status == "PROCESSING" and self.lease_until is not None and self.lease_until <= now


class Steward(NamedTuple):
    """Who makes a call: what is said of a worker's handle."""

    worker_id: str
    aging_after: timedelta | None


class End(NamedTuple):
    """How a claim ends: the status that is asked for, why, and for `PENDING` when to try again."""

    status: str
    message: str | None = None
    delay: timedelta | None = None


class QueueModel:
    """All requests that ever were, and whether the queue is paused."""

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}
        self.gone: frozenset[str] = frozenset()  # ids and claims that were pruned: never given out again, either
        self.claims: frozenset[str] = frozenset()
        self.paused = ""
        self.changes: dict[str, Request] = {}
        self.now = NO_INSTANT
        self.newest_before = ""  # the highest id of those that were made before this moment

    def copy(self) -> QueueModel:
        """Return a model that may be played on without harm to this one."""
        twin = QueueModel()
        twin.__dict__.update(self.__dict__, requests=dict(self.requests), changes={})
        return twin

    def play(self, made: Made, now: datetime) -> tuple[Any, dict[str, Request]]:
        """Return the right answer to a call, and what it must write; a refusal changes nothing."""
        attempt = self.copy()
        attempt.now = now
        method: Callable[..., Any] = getattr(attempt, made.call.name)
        try:
            answer = method(*made.expected, came_back=made.answer)
        except QueueError as error:
            return Refused(type(error)), {}
        self.__dict__.update(attempt.__dict__)
        return answer, self.changes

    def row(self, row: Row) -> tuple[str, Request]:
        """Return the key of a table's row, and what it says."""
        return row["request_id"], Request.of(row)

    def answer(self, answer: Any) -> Any:
        """Return a real answer in the words of the model."""
        if isinstance(answer, list):
            return [Request.of(item._asdict()) if hasattr(item, "_asdict") else item for item in answer]
        return answer

    # --- putting in ----------------------------------------------------------------------------------------------

    def insert_many(self, wanted: Sequence[Mapping[str, Any]], *, came_back: object) -> list[str]:
        """A contract that has a live request gets no second one, but what is better of priority and due_at."""
        ids = came_back if isinstance(came_back, list) else []
        live = {request.contract: known for known, request in self.requests.items() if request.status in LIVE}
        older = [known for known, request in self.requests.items() if age(request) < milliseconds(self.now)]
        self.newest_before = max(older, default="")
        answer = []
        for index, item in enumerate(wanted):
            contract = item.get("account", ""), item["conid"]
            if contract not in live:
                live[contract] = self.new_request(item, ids[index] if index < len(ids) else UNKNOWN)
            request = self.requests[live[contract]]
            better = min(item["priority"], request.priority)
            earlier = min(item.get("due_at") or request.due_at, request.due_at)
            if (better, earlier) != (request.priority, request.due_at):
                is_new = request.change == "INSERT" and request.request_id in self.changes
                self.change(request, "INSERT" if is_new else "PRIORITISE", priority=better, due_at=earlier)
            answer.append(live[contract])
        return answer

    def new_request(self, item: Mapping[str, Any], request_id: str) -> str:
        """Enter a request; its id is new, and ids sort by age."""
        assert request_id not in self.requests
        assert request_id not in self.gone
        assert request_id > self.newest_before, "ids sort by age"
        self.change(
            Request(
                request_id, item["conid"], item["symbol"], item["priority"], "PENDING", self.now, None,
                item.get("account", ""), 0, item["max_attempts"], item.get("available_at") or self.now,
                item.get("due_at") or self.now, None, None, None, "INSERT",
            ),
            "INSERT",
        )  # fmt: skip
        return request_id

    # --- taking out ----------------------------------------------------------------------------------------------

    def get_batch(
        self, who: Steward, limit: int, priority: int | None, lease: timedelta, *, came_back: object
    ) -> list[Request]:
        """Best priority first, then what was due first; what is out of attempts fails on the way."""
        if self.paused:
            return []
        tokens = [item.claim_id for item in came_back] if isinstance(came_back, list) else []
        due = [one for one in self.requests.values() if one.is_due(self.now) and priority in (None, one.priority)]
        batch: list[Request] = []
        for request in sorted(due, key=lambda one: (self.rank(one, who), one.due_at, one.request_id)):
            if len(batch) == limit:
                break
            if request.attempt >= request.max_attempts:
                self.change(request, "EXHAUST", status="FAILED", error_message=USED_UP, lease_until=None)
                continue
            token = tokens[len(batch)] if len(batch) < len(tokens) else None
            assert token is None or token not in self.claims, "a claim_id was given out before"
            self.claims |= {token}
            batch.append(
                self.change(
                    request, "CLAIM", status="PROCESSING", attempt=request.attempt + 1, claim_id=token,
                    worker_id=who.worker_id, lease_until=self.now + lease,
                )
            )  # fmt: skip
        return batch

    def rank(self, request: Request, who: Steward) -> int:
        """Return the priority that counts: for a worker that lets nothing starve, what was due long ago is urgent."""
        if who.aging_after is not None and request.due_at < self.now - who.aging_after:
            return 1
        return request.priority

    # --- settling ------------------------------------------------------------------------------------------------

    def mark_success(self, claims: Sequence[Claim], **_: object) -> None:
        """All or none."""
        self.end_all([(End("SUCCESS"), claim) for claim in claims])

    def mark_failed(self, claim: Claim, message: str, **_: object) -> None:
        """For good."""
        self.end_all([(End("FAILED", message), claim)])

    def mark_retry(self, claim: Claim, message: str, delay: timedelta | None, **_: object) -> None:
        """Another attempt later."""
        self.end_all([(End("PENDING", message, delay), claim)])

    def end_all(self, ends: Sequence[tuple[End, Claim]]) -> None:
        """End all of these claims or none."""
        self.all_known(request_id for _, (request_id, _) in ends)
        for end, claim in ends:
            self.end(end, claim)

    def settle(self, ends: Sequence[tuple[End, Claim]], **_: object) -> tuple[list[str], list[str]]:
        """End what is still held, name the others."""
        self.all_known(request_id for _, (request_id, _) in ends)
        settled, stale = [], []
        for end, claim in ends:
            try:
                self.end(end, claim)
                settled.append(claim[0])
            except StaleClaimError:
                stale.append(claim[0])
        return settled, stale

    def end(self, end: End, claim: Claim) -> None:
        """End one claim; ending it twice in the same way is harmless."""
        request = self.requests[claim[0]]
        no_more = end.status == "PENDING" and request.attempt >= request.max_attempts
        status = "FAILED" if no_more else end.status
        if claim[1] is not None and (request.claim_id, request.status) == (claim[1], status):
            return
        self.must_be_held(claim)
        if status == "PENDING":
            wait = end.delay
            if wait is None:
                wait = min(FIRST_WAIT * 2 ** (request.attempt - 1), LONGEST_WAIT)
            fields: dict[str, Any] = {"error_message": end.message, "available_at": self.now + wait}
            self.change(request, "RETRY", status=status, lease_until=None, **fields)
        else:
            message = USED_UP if no_more else end.message
            self.change(request, VERBS[status], status=status, lease_until=None, error_message=message)

    def extend_lease(self, claims: Sequence[Claim], lease: timedelta, **_: object) -> None:
        """From now on, all or none."""
        self.all_held(claims)
        for request_id in dict(claims):
            self.change(self.requests[request_id], "EXTEND", lease_until=self.now + lease)

    def release(self, claims: Sequence[Claim], **_: object) -> None:
        """As if it had not been claimed, all or none."""
        self.all_held(claims)
        for request_id in dict(claims):
            request = self.requests[request_id]
            fields = {"status": "PENDING", "attempt": request.attempt - 1, "claim_id": None, "lease_until": None}
            self.change(request, "RELEASE", **fields)

    # --- steering ------------------------------------------------------------------------------------------------

    def cancel(self, ids: Sequence[str], **_: object) -> None:
        """Live requests only, all or none; what is cancelled stays so."""
        for request in self.all_known(ids):
            if request.status in ("SUCCESS", "FAILED"):
                raise InvalidTransitionError
            if request.status in LIVE:
                self.change(request, "CANCEL", status="CANCELLED", lease_until=None)

    def prioritise(self, ids: Sequence[str], priority: int, **_: object) -> None:
        """Live requests only, all or none."""
        for request in self.all_known(ids):
            if request.status not in LIVE:
                raise InvalidTransitionError
            if request.priority != priority:
                self.change(request, "PRIORITISE", priority=priority)

    def redrive(self, ids: Sequence[str], *, came_back: object) -> list[Request]:
        """Failed ones start anew, one per contract, unless the contract has a live request; live ones stay as they are.

        Which one it is of several that failed for one contract is left to the queue.
        """
        asked = self.all_known(ids)
        if any(request.status not in ("FAILED", *LIVE) for request in asked):
            raise InvalidTransitionError
        busy = {request.contract for request in self.requests.values() if request.status in LIVE}
        wanted = [request for request in asked if request.status == "FAILED" and request.contract not in busy]
        chosen = [item.request_id for item in came_back] if isinstance(came_back, list) else []
        by_id = {request.request_id: request for request in wanted}
        if {by_id[known].contract for known in chosen if known in by_id} != {one.contract for one in wanted} or any(
            known not in by_id for known in chosen
        ):
            chosen = list({one.contract: one.request_id for one in wanted}.values())
        fields = {"status": "PENDING", "attempt": 0, "available_at": self.now, "claim_id": None}
        return [self.change(by_id[known], "REDRIVE", **fields) for known in chosen]

    def pause(self, reason: str, **_: object) -> None:
        """Nobody claims."""
        self.paused = reason

    def resume(self, **_: object) -> None:
        """As before."""
        self.paused = ""

    # --- what the calls have in common ---------------------------------------------------------------------------

    def change(self, request: Request, verb: str, **fields: Any) -> Request:
        """Let a request be something else from now on."""
        changed = request._replace(change=verb, **fields)
        self.requests[request.request_id] = self.changes[request.request_id] = changed
        return changed

    def all_known(self, ids: Iterable[str]) -> list[Request]:
        """Return requests by their ids, each once; one that never was is an error."""
        wanted = list(dict.fromkeys(ids))
        if any(request_id not in self.requests for request_id in wanted):
            raise RequestNotFoundError
        return [self.requests[request_id] for request_id in wanted]

    def all_held(self, claims: Sequence[Claim]) -> None:
        """Refuse to go on unless each of these claims is the current one."""
        self.all_known(request_id for request_id, _ in claims)
        for claim in claims:
            self.must_be_held(claim)

    def must_be_held(self, claim: Claim) -> None:
        """Refuse a claim that is not the request's own, or whose lease is over."""
        request = self.requests[claim[0]]
        is_current = request.status == "PROCESSING" and request.claim_id == claim[1] is not None
        if not is_current or request.is_due(self.now):
            raise StaleClaimError

    def holds(self, request_id: str, claim_id: str) -> bool:
        """Tell whether this claim is the current one, lease or not."""
        request = self.requests.get(request_id)
        return request is not None and (request.status, request.claim_id) == ("PROCESSING", claim_id)

    # --- what is always so ---------------------------------------------------------------------------------------

    def check(self) -> None:
        """At most one live request per contract and at most one live claim per request; nobody tries too often."""
        live = [request.contract for request in self.requests.values() if request.status in LIVE]
        assert len(live) == len(set(live))
        for request in self.requests.values():
            assert 0 <= request.attempt <= request.max_attempts
            if request.status == "PROCESSING":
                assert request.claim_id is not None
                assert request.worker_id is not None
                assert request.lease_until is not None
                assert request.attempt >= 1
            else:
                assert request.lease_until is None
        claims = [request.claim_id for request in self.requests.values() if request.status == "PROCESSING"]
        assert len(claims) == len(set(claims))

    def numbers(self, held: Iterable[Row], now: datetime) -> dict[str, Any]:
        """Return what `stats()` says of a handle that holds these rows."""
        rows = list(held)
        live = [row for row in rows if row["status"] in LIVE]
        waiting = [row["due_at"] for row in live if row["status"] == "PENDING"]
        statuses = (*LIVE, "SUCCESS", "FAILED", "CANCELLED")
        ended = [row["updated_at"] for row in rows if row["status"] not in LIVE]
        return {
            "by_status": {status: sum(row["status"] == status for row in rows) for status in statuses},
            "by_priority": {
                number: sum(row["priority"] == number for row in live)
                for number in sorted({row["priority"] for row in live})
            },
            "oldest_pending": max(now - min(waiting), timedelta(0)) if waiting else None,
            "expired_leases": sum(row["status"] == "PROCESSING" and row["lease_until"] <= now for row in live),
            "retries": sum(max(row["attempt"] - 1, 0) for row in rows),
            "finished_last_minute": sum(at >= now - timedelta(minutes=1) for at in ended),
            "paused": self.paused,
        }


def milliseconds(instant: datetime) -> int:
    """Return an instant as request ids know it."""
    return int(instant.timestamp() * 1000)


def age(request: Request) -> int:
    """Return when a request was made, as its id knows it."""
    return milliseconds(request.created_at)


def is_uuid(text: str) -> bool:
    """Tell whether this is a UUID of version 7, as RFC 9562 writes it."""
    return re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", text) is not None
