"""Coverage-guided fuzzing of one target, with atheris: `scripts/fuzz TARGET --runs N`.

What `-timeout` and the limit on address space catch is a failure too: an input that hangs, or that has the decoder
allocate more than `HEADROOM_BYTES`. Inputs that fail are written to the working folder.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import atheris

HEADROOM_BYTES = 96 << 20
"""Address space beyond what the process has once all seeds have run. The tensors here take under 1 kB, so no decoder
has any business near it; a fraction of it goes to arenas of the allocator and to the fuzzer's own tables."""

RENEWED = 1 << 16
"""Inputs after which the limit is set anew: atheris keeps the result of every comparison of arrays that it traces
(160 bytes each), which over ten million inputs is more than any headroom for one."""

COMPILED = ["pipeline.packing.kernels", "pipeline.packing.planes", "pipeline.packing.mixing"]
"""Modules that numba compiles: it takes no instrumented bytecode."""

with atheris.instrument_imports(include=["pipeline", "scheduler", "traces", "nodes"], exclude=COMPILED):
    from tests.fuzz.targets import TARGETS, corpus


def main() -> None:
    """Fuzz until the runs are done, or something fails."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzz one decoder of a peer's bytes.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=10_000_000, help="inputs to try")
    parser.add_argument("--seconds", type=int, default=0, help="stop after this long; 0 for no limit")
    parser.add_argument("--corpus", type=Path, help="folder to keep interesting inputs in, over runs")
    parser.add_argument("--max-len", type=int, default=4096, help="longest input, bytes")
    parser.add_argument("--hang", type=int, default=5, help="seconds by the clock that no input may take")
    given = parser.parse_args()
    target = TARGETS[given.target]()
    run = _limited(target.run)
    with tempfile.TemporaryDirectory() as folder:
        kept = given.corpus or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate([*target.seeds, *(path.read_bytes() for path in corpus(given.target))]):
            (kept / f"seed-{number}").write_bytes(seed)
            target.run(seed)
        flags = [
            f"-runs={given.runs}", f"-max_total_time={given.seconds}", f"-max_len={given.max_len}",
            f"-timeout={given.hang}", "-rss_limit_mb=0", "-print_final_stats=1", "-use_value_profile=0",
        ]  # fmt: skip
        atheris.Setup([sys.argv[0], *flags, str(kept)], run)
        sys.stderr.write(f"fuzzing {given.target} from {time.strftime('%H:%M:%S')}\n")
        atheris.Fuzz()


def _limited(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """The target, under a limit on what memory it takes beyond what the process has."""
    tried = itertools.count()

    def limited(data: bytes) -> None:
        if next(tried) % RENEWED == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + HEADROOM_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        run(data)

    return limited


if __name__ == "__main__":
    main()
