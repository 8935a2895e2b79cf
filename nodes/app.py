"""The command `anabranch`."""

from __future__ import annotations

import logging
import os
import sys

import typer

from nodes.commands import (
    bench,
    calibrate,
    cloud,
    compare,
    device,
    edge,
    link,
    model,
    plan,
    profile,
    replay,
    run,
    scheduler,
    simulate,
    tile,
    traces,
)
from nodes.quiet import FewLines
from pipeline.errors import AnabranchError
from pipeline.model import memory
from traces.errors import TraceError

app = typer.Typer(
    name="anabranch",
    help="A convolutional network's answer for every video frame, cut over device, edge and cloud.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("run")(run.run)
app.command("device")(device.device)
app.command("edge")(edge.edge)
app.command("tile")(tile.tile)
app.command("cloud")(cloud.cloud)
app.command("scheduler")(scheduler.scheduler)
app.command("profile")(profile.profile)
app.command("calibrate")(calibrate.calibrate)
app.command("plan")(plan.plan)
app.command("simulate")(simulate.simulate)
app.command("replay")(replay.replay)
app.command("compare")(compare.compare)
app.command("link")(link.link)
app.command("bench")(bench.bench)
app.add_typer(model.app, name="model")
app.add_typer(traces.app, name="traces")


@app.callback()
def _log(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what the nodes do, on standard error."),
) -> None:
    level = logging.INFO if verbose or os.environ.get("ANABRANCH_LOG") == "info" else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(FewLines())


def main() -> None:
    """Run the command line; an error of ours is one line on standard error and exit code 1."""
    memory.keep_freed()
    try:
        app()
    except (AnabranchError, TraceError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
