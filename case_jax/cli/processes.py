"""Several processes in one command: how they find each other, and what is said when one of them dies."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from case_jax import parallel
from case_jax._checks import CaseJaxError, require

MOURNER = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if not sys.stdin.read():
    print(sys.argv[1], file=sys.stderr, flush=True)
"""
"""Outlives its parent, whatever ended it (JAX ends a process whose peers are gone without asking Python)."""


@dataclass(frozen=True)
class Processes:
    """One of several processes that share a run."""

    coordinator: str | None = None
    """host:port of process 0, where the processes find each other; start each with the same command, only --process-id differs."""
    process_id: int | None = None
    """This process's number, from 0."""
    process_count: int | None = None
    """How many processes there are."""
    pod: bool = False
    """Find the other processes by the environment: TPU pods, Slurm, Open MPI. Start the same command on every host."""

    def check(self) -> None:
        """Raise for an incomplete or impossible choice, before anything is waited for."""
        given = {"coordinator": self.coordinator, "process_id": self.process_id, "process_count": self.process_count}
        missing = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is None]
        if self.pod:
            require(len(missing) == 3, "pod", "with --coordinator, --process-id or --process-count", "--pod alone")
            return
        if len(missing) == 3:
            return
        require(not missing, "coordinator", f"no {', '.join(missing)}", "all three, or --pod alone")
        assert self.coordinator is not None
        assert self.process_id is not None
        assert self.process_count is not None
        host, _, port = self.coordinator.rpartition(":")
        proper = host and port.isascii() and port.isdigit() and 0 < int(port) < 65536
        require(
            proper,
            "coordinator",
            repr(self.coordinator),
            "HOST:PORT, process 0's name or address and a free port there",
        )
        require(self.process_count >= 1, "process_count", self.process_count, "at least 1")
        accepted = f"a number from 0 to {self.process_count - 1}, another in every process"
        require(0 <= self.process_id < self.process_count, "process_id", self.process_id, accepted)

    @property
    def several(self) -> bool:
        """Whether others share the run."""
        return self.pod or (self.process_count or 1) > 1


@contextlib.contextmanager
def together(choice: Processes) -> Iterator[bool]:
    """Run as one of the chosen processes; yields whether this is the first, which says and writes what there is once.

    An error ends this process at once, so that the others need not wait for it; they end within a minute, too.
    """
    choice.check()
    if not choice.several:
        yield True
        return
    parallel.join(choice.coordinator, choice.process_id, choice.process_count)
    number, count = parallel.process()
    words = (
        f"case-jax: process {number} of {count} has ended before the run was complete, or another one has and JAX ended this one. What "
        "was committed is kept: start the same command in every process again, in as many processes as you like."
    )
    mourner = subprocess.Popen(
        [sys.executable, "-S", "-c", MOURNER, words], stdin=subprocess.PIPE, start_new_session=True
    )
    assert mourner.stdin is not None
    try:
        yield number == 0
        parallel.leave()
    except BaseException as error:
        status = 1
        if isinstance(error, CaseJaxError | OSError):
            print(f"case-jax: error: {error}", file=sys.stderr, flush=True)
            status = 2
        elif isinstance(error, SystemExit) and isinstance(error.code, int):
            status = error.code
        elif not isinstance(error, KeyboardInterrupt):
            sys.excepthook(type(error), error, error.__traceback__)
        sys.stdout.flush()
        os._exit(status)  # a regular end would wait for the others
    mourner.stdin.write(b"all is well")
    mourner.stdin.close()
    mourner.wait()
