"""What panels that somebody sees cost a real kernel while the queue changes four times a second, in time and bytes.

Ten panels of one desk, beside the same changes while nobody looks: the processor time of the whole process, so that the
threads of polars count, too. The queue does its upkeep at every hundredth commit, so each share is long enough to have
it once. Panels draw less often rather than cost more, so how often one draws is told beside it. Bytes are those of the
messages that the kernel publishes; what the browser makes of them is in `tests.bench.painted`.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client import KernelClient
from jupyter_client.manager import start_new_kernel

from tests.bench.measure import Line, count_at_most, lake

ROUNDS, SECONDS = 4, 25
FEWER, MANY = 1_000, 100_000
PANELS = 10
_OPEN = """\
import asyncio, json, time
import polars as pl
import v6kit
from v6kit.panels import PANELS, BookPanel, QueuePanel, StrategiesPanel
desk = await v6kit.open({lake!r}, "simulated", gateway=v6kit.SimulatedGateway(positions=500))
legs = [v6kit.Leg.of(each.instrument) for condor in desk.gateway.account.iron_condors[:5] for each in condor]
await desk.registry.add_strategy("condors", legs)
wanted = pl.DataFrame({{"conid": range(1, {rows} + 1)}}).with_columns(symbol=pl.format("S{{}}", "conid"))
ids = await desk.queue.insert_many(wanted)
panels = [desk.panel(name) for name in PANELS]
panels += [kind(desk, place="second") for kind in (QueuePanel, BookPanel, StrategiesPanel)]
panels.append(QueuePanel(desk, place="third"))
assert len(panels) == {panels}
sizes = {{panel.place: len(json.dumps(panel._repr_mimebundle_()[0])) for panel in panels[:len(PANELS)]}}
n = drawn = 0

def drew(_change):
    global drawn
    drawn += 1

panels[list(PANELS).index("queue")]._on_screen().observe(drew, "head")

def say(what):
    for panel in panels:
        content = {{"do": what, "view": "a-view", "number": n}}
        message = {{"content": {{"data": {{"method": "custom", "content": content}}}}, "buffers": []}}
        panel._on_screen()._handle_msg(message)

async def share(what):
    global n, drawn
    say(what)
    await asyncio.sleep(1)
    began, used = time.monotonic(), time.process_time()
    changes = drawn = 0
    while time.monotonic() < began + {seconds}:
        n, changes = n + 1, changes + 1
        await desk.queue.prioritise(ids[:50], 1 + n % 2)
        await asyncio.sleep(0.25)
    return (time.process_time() - used) / (time.monotonic() - began), changes, drawn / (time.monotonic() - began)

print(json.dumps(sizes))"""


def run() -> list[Line]:
    """Measure."""
    fewer, many = _measured(FEWER), _measured(MANY)
    return [
        *_lines(fewer, FEWER),
        *_lines(many, MANY),
        count_at_most("bytes of the largest panel in a notebook", max(many["sizes"].values()), 40_000),
    ]


def _lines(found: dict[str, Any], rows: int) -> list[Line]:
    what = f"{PANELS} panels, {rows:,} requests, ‰ of a core"
    often = statistics.median(found["often"])
    return [
        Line(f"{what.rpartition(',')[0]}, drawings of one a second", "4 changes a second", often, "told", is_met=True),
        count_at_most(f"{what}, median", round(1000 * statistics.median(found["shares"])), 100),
        count_at_most(f"{what}, worst of {ROUNDS}", round(1000 * max(found["shares"])), 100),
        count_at_most(f"bytes of {PANELS} panels per change, {rows:,} requests", round(found["bytes"]), 200_000),
    ]


def _measured(rows: int) -> dict[str, Any]:
    with lake() as folder:
        manager, client = start_new_kernel(cwd=str(Path(__file__).parents[2]))
        try:
            opening = _OPEN.format(lake=str(folder), rows=rows, seconds=SECONDS, panels=PANELS)
            said, _ = _run_cell(client, opening)
            shares, sizes, often = [], [], []
            for _ in range(ROUNDS):
                (alone, _, _), _ = _share(client, "leave")
                (seen, changes, drawings), sent = _share(client, "see")
                often.append(drawings)
                shares.append(seen - alone)
                sizes.append(sent / changes)
            _run_cell(client, "await desk.close()")
            return {"sizes": json.loads(said), "shares": shares, "often": often, "bytes": statistics.median(sizes)}
        finally:
            client.stop_channels()
            manager.shutdown_kernel()


def _share(client: KernelClient, what: str) -> tuple[tuple[float, int, float], int]:
    said, sent = _run_cell(client, f"print(json.dumps(await share({what!r})))")
    share, changes, drawings = json.loads(said)
    return (share, changes, drawings), sent


def _run_cell(client: KernelClient, code: str) -> tuple[str, int]:
    """Run a cell; return what it printed, and how many bytes the widgets sent meanwhile."""
    asked, said, sent = client.execute(code), "", 0
    while True:
        try:
            message = client.get_iopub_msg(timeout=120)
        except Empty:
            raise RuntimeError(f"the kernel has said nothing for two minutes after {code!r}") from None
        content = message["content"]
        match message["msg_type"]:
            case "comm_msg" | "comm_open":
                sent += len(json.dumps(content).encode())
            case "stream" if content["name"] == "stdout":
                said += content["text"]
            case "error":
                raise RuntimeError("\n".join(content["traceback"]))
            case "status" if content["execution_state"] == "idle" and message["parent_header"].get("msg_id") == asked:
                return said, sent
