"""The command `anabranch`."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from nodes.quiet import OWN_LOG, FewLines, OwnLog
from pipeline.errors import AnabranchError
from pipeline.model import memory
from traces.errors import TraceError

COMMANDS = (
    "run", "device", "edge", "tile", "cloud", "scheduler", "profile", "calibrate", "plan", "simulate", "replay",
    "compare", "doctor", "link", "bench", "keys", "model", "traces",
)  # fmt: skip
"""Each is a module of `nodes.commands` with a function, or a group of commands `app`, of that name."""


class OneAtATime(TyperGroup):
    """Imports the command that is asked for, and no other: a node starts without what plots and planners need."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"nodes.commands.{cmd_name}")
        group = getattr(module, "app", None)
        if group is None:
            group = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            group.command(cmd_name)(getattr(module, cmd_name))
        command = typer.main.get_command(group)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="anabranch",
    cls=OneAtATime,
    help="A convolutional network's answer for every video frame, cut over device, edge and cloud.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _log(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what the nodes do, on standard error."),
) -> None:
    level = logging.INFO if verbose or os.environ.get("ANABRANCH_LOG") == "info" else logging.WARNING
    handler = OwnLog(sys.stderr, os.environ.get(OWN_LOG, ""))
    handler.addFilter(FewLines())
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=[handler])


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
