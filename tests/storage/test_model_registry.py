"""The registry beside its plain model: what is active is right in every process, whatever happens in whatever order.

A run that found something prints its steps. `MODEL_EXAMPLES=2000` makes it look longer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test
from ledger_model import HANDLES, WAITS, Call, LedgerMachine, Row, agree, calls
from registry_model import RegistryModel
from v6kit.contracts import ActiveContract
from v6kit.registry import Amendment, StrategyRegistry

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "12"))
STEPS = 40
CONIDS = range(1, 6)
STRATEGIES = st.sampled_from(["1", "2", "3"])
KINDS = st.sampled_from([None, None, "IRON_CONDOR", "VERTICAL"])
PRIORITIES = st.sampled_from([None, None, 1, 2])
ACCOUNTS = st.sampled_from([None, None, "DU1", "DU2"])
WHERE = ACCOUNTS | st.just("")  # for removals: nothing said, one account, or legs that are bound to none
QUANTITIES = st.sampled_from([1.0, 1.0, -2.0])
DAYS = st.sampled_from([date(2026, 11, 1), date(2026, 12, 1), date(2026, 12, 18), date(2027, 1, 1)])


def leg(conid: int, quantity: float, *, wrong: bool) -> dict[str, Any]:
    """Return what a conid stands for: options of three months, and a share; a wrong one has another strike or name."""
    if conid == CONIDS[-1]:
        symbol, fields = "QQQ" if wrong else "SPY", {"sec_type": "STK", "right": None, "strike": None, "expiry": None}
    else:
        expiry = f"20261{conid % 3}18"
        symbol, fields = "SPY", {"sec_type": "OPT", "right": "C", "strike": 595.0 + wrong, "expiry": expiry}
    return {"conid": conid, "symbol": symbol, **fields, "quantity": quantity}


LEG = st.builds(leg, st.sampled_from(CONIDS), QUANTITIES, wrong=st.sampled_from([False] * 5 + [True]))
LEGS = st.lists(LEG, min_size=1, max_size=4, unique_by=lambda one: one["conid"])
ADD = calls("add_strategy", STRATEGIES, LEGS, KINDS, account=ACCOUNTS, priority=PRIORITIES)
AMENDMENTS = st.lists(
    st.builds(
        Amendment, STRATEGIES, ACCOUNTS, st.sampled_from(CONIDS), QUANTITIES, becomes=st.sampled_from([0.0, 1.0, -2.0])
    ),
    max_size=2,
    unique_by=lambda one: one[:3],
)
REMOVE = (
    calls("remove_strategy", STRATEGIES, account=WHERE)
    | calls("remove_active", st.sampled_from(CONIDS), STRATEGIES | st.none(), account=WHERE)
    | calls("expire", DAYS)
    | calls("amend", AMENDMENTS)
)
LOOK = st.just(Call("get_all_active"))


class RegistryMachine(LedgerMachine):
    """Two processes that change one registry, and listeners that follow it."""

    kind = StrategyRegistry

    @initialize()
    def open_the_registry(self) -> None:
        """Begin."""
        self.model = RegistryModel()
        self.heard: dict[int, set[int]] = {}  # by the handle's identity: what its listener believes to be active
        self.start()

    def make(self, index: int) -> StrategyRegistry:  # noqa: ARG002 - all handles are alike
        """Return a handle with a listener, which hears from the first row on."""
        registry = StrategyRegistry(self.uri, clock=self.clock)
        believed = self.heard[id(registry)] = set()
        self.wrong: list[str] = []

        def follow(added: Sequence[ActiveContract], removed: Sequence[ActiveContract]) -> None:
            gains, losses = [one.conid for one in added], [one.conid for one in removed]
            if set(gains) & believed or set(losses) - believed or len(set(gains + losses)) < len(gains + losses):
                self.wrong.append(f"{believed} was told to be +{gains} -{losses}")
            believed.update(gains)
            believed.difference_update(losses)

        registry.on_change(follow)
        return registry

    # --- steps ---------------------------------------------------------------------------------------------------

    @rule(on=HANDLES, call=ADD, after=WAITS)
    def add(self, on: int, call: Call, after: float) -> None:
        """Register legs."""
        self.play((on, [call]), after=after)

    @rule(on=HANDLES, call=ADD)
    def add_twice(self, on: int, call: Call) -> None:
        """Register legs and do it again, from the other process: that changes nothing."""
        self.play((on, [call]))
        before = self.table.version()
        self.play((1 - on, [call]))
        assert self.table.version() == before

    @rule(on=HANDLES, call=calls("add_active", STRATEGIES, LEG, KINDS, account=ACCOUNTS, priority=PRIORITIES))
    def add_one(self, on: int, call: Call) -> None:
        """Register one contract, field by field."""
        self.play((on, [call]))

    @rule(on=HANDLES, data=st.data(), becomes=st.sampled_from([0.0, 1.0, -2.0, 5.0]))
    def amend_what_is_held(self, on: int, data: st.DataObject, becomes: float) -> None:
        """Give legs another quantity, as they are."""
        held = [Amendment(*leg.key, leg.quantity, becomes) for leg in self.model.active()]
        if held:
            chosen = data.draw(st.lists(st.sampled_from(held), min_size=1, max_size=2, unique=True))
            self.play((on, [Call("amend", (chosen,))]))

    @rule(on=HANDLES, call=REMOVE, after=WAITS)
    def remove(self, on: int, call: Call, after: float) -> None:
        """Let go of a strategy, a contract, or what has expired, or amend legs that may be otherwise by now."""
        self.play((on, [call]), after=after)

    @rule(on=HANDLES, call=LOOK)
    def look(self, on: int, call: Call) -> None:
        """Ask for all that is active, others' newest changes included; that commits nothing."""
        before = self.table.version()
        self.play((on, [call]))
        assert self.table.version() == before

    @rule(on=HANDLES, together=st.lists(ADD | REMOVE, min_size=2, max_size=5), after=WAITS)
    def call_at_once(self, on: int, together: list[Call], after: float) -> None:
        """Make several calls in one go: they go out together, each sees the effect of those before it."""
        self.play((on, together), after=after)

    @rule(one=st.lists(ADD | REMOVE, min_size=1, max_size=2), two=st.lists(ADD | REMOVE, min_size=1, max_size=2))
    def race(self, one: list[Call], two: list[Call]) -> None:
        """Let both processes make calls at the same time."""
        self.play((0, one), (1, two))

    def real(self, index: int, call: Call) -> tuple[Call, tuple[Any, ...]]:  # noqa: ARG002 - all handles are alike
        """Return the call as it is made, and what the model needs."""
        if call.name != "add_active":
            return call, (call.arguments, call.options)
        strategy_id, one, kind = call.arguments
        flat = {**one, "strategy_id": strategy_id, "kind": kind, **call.options}
        return Call("add_active", (), flat), (call.arguments, call.options)

    def is_finished(self, row: Row) -> bool:  # noqa: ARG002 - of no row
        """Nothing in a registry is pruned for having ended: removed legs are few, and tell what a strategy was."""
        return False

    # --- what a handle says --------------------------------------------------------------------------------------

    def check_state(self, handle: StrategyRegistry) -> None:
        """`is_active`, the lists, and what its listener heard are one and the same."""
        held = sorted(one.seen() for one in self.model.active())
        active = {one.conid for one in self.model.active()}
        agree({conid for conid in range(10) if handle.is_active(conid)}, active, "is_active()")
        agree(self.heard[id(handle)], active, "what listeners heard")
        assert not self.wrong
        legs = handle.active_legs()
        agree(self.model.answer(legs), held, "active_legs()")
        order = [(one.strategy_id, one.account or "", one.added_at) for one in legs]
        assert order == sorted(order), "they are in order"
        assert len(handle.current()) == len(held)
        by_strategy = handle.strategies().select("strategy_id", "account", "strategy", "priority", "legs").rows()
        names = sorted({one.name for one in self.model.active()}, key=lambda name: (name[0], name[1] or ""))
        right = [[one for one in self.model.active() if one.name == name] for name in names]
        agree(
            by_strategy,
            [(*name, *of[0].common, len(of)) for name, of in zip(names, right, strict=True)],
            "strategies()",
        )
        rows = pl.DataFrame(self.journal, schema=dict(StrategyRegistry.SPEC.columns))
        newest = rows.group_by("strategy_id", "account", "conid").agg(pl.all().sort_by("seq").last())
        told = newest.filter(pl.col("removed_at").is_null())["conid"].unique().sort().to_list()
        agree(told, sorted(active), "the table")
        assert all(len({one.common for one in of}) == 1 for of in right), "a strategy has one kind and one priority"


@pytest.mark.usefixtures("no_turns")  # writers are to meet
@pytest.mark.timeout(600 + 10 * EXAMPLES)
def test_the_registry_does_what_its_model_does():
    """What is active, who holds it and what listeners hear are right over calls, races, restarts and pruning."""
    run_state_machine_as_test(
        RegistryMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,  # a commit takes as long as the disk likes
            suppress_health_check=[HealthCheck.too_slow],  # opening three tables is slow compared with drawing steps
            print_blob=True,
        ),
    )
