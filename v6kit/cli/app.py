"""The commands, their options and their help; what each one does is in the module of its name.

Owns how the program ends: its exit codes, and that an error of the user's is one line and not a traceback.
"""
# A command imports what it needs when it runs: `v6kit --help` must not wait a second for deltalake and ib_async.
# ruff: noqa: PLC0415

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from v6kit.cli import terminal
from v6kit.errors import V6KitError

FAILED, UNKNOWN = 1, 2
TICK_SECONDS, MOST_TICK_SECONDS = 0.25, 30.0  # longer, and a scenario's events would run into one another

app = typer.Typer(
    name="v6kit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # `main` says what happened
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass
class Shared:
    """What the options before the command say.

    Attributes:
        debug: Show tracebacks.
    """

    debug: bool = False


def main() -> None:
    """Run the command line, and exit."""
    shared = Shared()
    try:
        app(obj=shared)
    except KeyboardInterrupt:
        sys.exit(terminal.INTERRUPTED)
    except (V6KitError, ValueError, OSError) as error:
        if shared.debug:
            raise
        terminal.say_error(error)
        sys.exit(FAILED)


def _version(wanted: bool) -> None:  # noqa: FBT001 - the signature of an option's callback
    if wanted:
        typer.echo(f"v6kit {importlib.metadata.version('v6kit')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
    _wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keep an options account fresh on 100 market data lines.

    Legs of active strategies are streamed from Interactive Brokers; every other position is refreshed from a durable
    queue, by snapshots on the lines that are free. All of it is kept in a lake: a folder with three Delta tables, whose
    every past state can be looked at again. Nothing is ever ordered or changed at the broker. Without a gateway of your
    own, begin with **v6kit demo**: it brings a simulated one along.
    """
    context.obj.debug = debug


Lake = Annotated[
    str, typer.Argument(help="The lake: a folder, or a URI such as s3://bucket/lake (credentials: environment).")
]
ClientId = Annotated[int, typer.Option(min=1, help="Our id at the gateway; one per program.")]
Positions = Annotated[int, typer.Option(min=0, max=5500, help="Positions in the simulated account.")]
Seed = Annotated[int, typer.Option(min=0, help="Names the simulated market and account; the same one repeats them.")]
Accounts = Annotated[
    list[str] | None,
    typer.Option(help="Only this account; may be given several times. Default: all accounts of the login."),
]
LineLimit = Annotated[int, typer.Option(min=1, help="Market data lines of the login.")]


@app.command()
def demo(
    context: typer.Context,
    *,
    lake: Annotated[
        Path | None, typer.Option(help="A folder to keep the tables in; made if need be. Default: a new temporary one.")
    ] = None,
    positions: Annotated[int, typer.Option(min=1, max=5500, help="Positions in the simulated account.")] = 500,
    strategies: Annotated[int, typer.Option(min=0, help="Iron condors to register as active: four legs each.")] = 10,
    line_limit: LineLimit = 100,
    seed: Seed = 7,
    day: Annotated[
        bool, typer.Option("--day", help="Play a whole trading day in fast motion instead: 80 positions, 6 condors.")
    ] = False,
    speed: Annotated[float, typer.Option(min=1, max=400, help="With --day: seconds of it per second.")] = 200.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; progress goes to stderr.")] = False,
) -> None:
    """Refresh a whole account once: stream the active legs, queue the rest. **Simulated**, needs no gateway.

    Opens a desk on a simulated gateway, registers iron condors as active, and runs cycles until every other position
    has been refreshed. Ctrl-C stops it without loss; with the same --lake it goes on.

    With --day, the gateway plays a trading day: fills, a halt, outages of every kind, a split, expiry, a restart. At
    its end it is said how each outage shows in the book, and whether the book is the account.
    """
    _refuse_given(context, ("positions", "strategies", "line_limit") if day else ("speed",), day=day)
    if day:
        from v6kit.cli import day as played
        from v6kit.cli.day_pass import Settings as Day

        raise typer.Exit(played.run(Day(lake=lake, seed=seed, speed=speed), as_json=as_json))
    from v6kit.cli import demo as command
    from v6kit.cli.demo_pass import Settings

    settings = Settings(lake=lake, positions=positions, strategies=strategies, line_limit=line_limit, seed=seed)
    raise typer.Exit(command.run(settings, as_json=as_json))


def _refuse_given(context: typer.Context, names: Sequence[str], *, day: bool) -> None:
    """Refuse options that would be ignored."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{option} goes {'without' if day else 'with'} --day", param_hint=option)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where the notebooks go; made if need be.")] = Path("v6kit-notebooks"),
    *,
    broker: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Your own TWS or IB Gateway, for 06_your_gateway. Default: simulated."),
    ] = None,
) -> None:
    """Open JupyterLab on a copy of the notebooks that teach v6kit, until Ctrl-C.

    Notebooks that are in the folder already are left as they are. Any other option goes to JupyterLab, for example
    --no-browser.
    """
    from v6kit.cli import lab as command

    command.run(folder, broker=broker, options=context.args)


@app.command()
def gateway(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 4002,
    host: Annotated[str, typer.Option(help="Address to listen on; only this machine reaches the default.")] = (
        "127.0.0.1"
    ),
    positions: Positions = 500,
    seed: Seed = 7,
    line_limit: LineLimit = 100,
    snapshot_hold: Annotated[float, typer.Option(min=0, help="Seconds for which a snapshot holds its line.")] = 0.5,
    tick_interval: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Seconds between two ticks of a stream. Default: 0.25, times the speed, at most 30."
        ),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Play a day: 'trading_day', or a TOML file. Ends when it is over."),
    ] = None,
    speed: Annotated[float, typer.Option(min=1, help="Seconds on its clock per second outside.")] = 1.0,
) -> None:
    """Serve a **simulated** IB gateway to any IB client, until Ctrl-C.

    It speaks IB's wire protocol, with a deterministic option market, an account with positions, and a model of IB's
    limits. There is no money in it, and no order reaches it. A scenario brings what a trading day brings: halts,
    outages, fills, expiry, a restart.
    """
    from v6kit.cli import gateway as command
    from v6kit.gateway import Scenario, SimulatedGateway

    played = None if scenario is None else Scenario.load(scenario)
    simulated = SimulatedGateway(
        positions,
        host=host,
        port=port,
        seed=seed,
        line_limit=line_limit,
        snapshot_hold=snapshot_hold,
        tick_interval=tick_interval or min(TICK_SECONDS * speed, MOST_TICK_SECONDS),
        clock=command.clock_for(played, speed),
    )
    command.run(simulated, played)


@app.command()
def worker(
    lake: Lake,
    *,
    broker: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT|simulated",
            help="TWS (7496, paper 7497), IB Gateway (4001, paper 4002), or 'simulated'.",
        ),
    ],
    client_id: ClientId = 7,
    account: Accounts = None,
    market_data_type: Annotated[
        int, typer.Option(min=1, max=4, help="1 live, 2 frozen, 3 delayed, 4 delayed-frozen.")
    ] = 1,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds from one cycle's start to the next.")] = 5.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests that are claimed at once.")] = 50,
    line_limit: LineLimit = 100,
    line_reserve: Annotated[int, typer.Option(min=0, help="Lines left to TWS and other programs.")] = 10,
    sync_interval: Annotated[float, typer.Option(min=1, help="Seconds between two readings of all positions.")] = 60.0,
) -> None:
    """Stream what is active in a lake and keep the rest fresh, until Ctrl-C.

    One line per cycle. Any number of notebooks may use the same lake meanwhile; a second worker needs another client
    id.
    """
    from v6kit.cli import worker as command

    settings = command.Settings(
        lake=lake,
        broker=broker,
        client_id=client_id,
        account=tuple(account or ()),
        market_data_type=market_data_type,
        interval=interval,
        batch_size=batch_size,
        line_limit=line_limit,
        line_reserve=line_reserve,
        sync_interval=sync_interval,
    )
    command.run(settings)


@app.command()
def doctor(
    lake: Lake,
    *,
    broker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Check this gateway, too, by connecting to it.")
    ] = None,
    client_id: ClientId = 7,
) -> None:
    """Check a lake, and a gateway if one is named; changes nothing.

    Prints ok, warn or fail per line, and what to do about it. The exit code is 0 unless something failed.
    """
    from v6kit.cli import doctor as command

    raise typer.Exit(command.run(lake, broker=broker, client_id=client_id))


@app.command()
def reconcile(
    context: typer.Context,
    lake: Lake,
    *,
    broker: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="TWS (7496, paper 7497) or IB Gateway (4001, 4002).")
    ],
    client_id: Annotated[int, typer.Option(min=1, help="Our id at the gateway; another one than your desk has.")] = 8,
    account: Accounts = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show where accounts, strategies and book disagree; changes nothing.

    The exit code is 0 when strategies and book are right, 1 when one is wrong, 2 when it could not be found out.
    """
    from v6kit.cli import reconcile as command

    settings = command.Settings(lake=lake, broker=broker, client_id=client_id, account=tuple(account or ()))
    try:
        raise typer.Exit(command.run(settings, as_json=as_json))
    except (V6KitError, ValueError, OSError) as error:
        if context.obj.debug:
            raise
        terminal.say_error(error)
        raise typer.Exit(UNKNOWN) from error
