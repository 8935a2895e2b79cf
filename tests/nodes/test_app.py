"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from nodes.app import COMMANDS, app


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_on_the_help_page_and_on_its_own(name: str) -> None:
    runner = CliRunner()
    page = runner.invoke(app, ["--help"])
    own = runner.invoke(app, [name, "--help"])
    assert page.exit_code == own.exit_code == 0
    assert name in page.output and name in own.output


def test_a_node_starts_without_what_plots_and_planners_need() -> None:
    heavy = ("matplotlib", "networkx", "scipy.optimize", "scheduler.planners")
    script = f"import sys, nodes.app, nodes.commands.edge; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
