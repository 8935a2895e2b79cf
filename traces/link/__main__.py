"""The child of `ShaperProcess`: one argument of JSON, then commands on standard input, answers on standard output."""

from __future__ import annotations

import json
import sys

from traces.errors import TraceError
from traces.formats import read_trace
from traces.link.address import Address
from traces.link.control import serve_commands
from traces.link.queue import LinkSettings
from traces.link.shaper import Shaper, ShaperConfig


def main(argument: str) -> int:
    """Runs a link until its standard input ends."""
    asked = json.loads(argument)
    try:
        config = ShaperConfig(
            up=read_trace(asked["up"]),
            down=read_trace(asked["down"]),
            to=Address.parse(asked["to"]),
            listen=Address.parse(asked["listen"]),
            settings=LinkSettings(**asked["settings"]),
            epoch_s=asked["epoch_s"],
        )
        shaper = Shaper(config).start()
    except TraceError as error:
        sys.stdout.write(json.dumps({"ok": False, "error": str(error)}) + "\n")
        return 1
    sys.stdout.write(json.dumps({"ok": True, "listening": str(shaper.address)}) + "\n")
    sys.stdout.flush()
    try:
        serve_commands(shaper, sys.stdin, sys.stdout)
    except KeyboardInterrupt:
        pass  # the terminal's interrupt reaches all processes of the group; the parent says the rest
    finally:
        shaper.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
