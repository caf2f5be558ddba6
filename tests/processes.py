"""Commands, and as whole processes, one or two that share a run, for tests that kill them."""

import atexit
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import jax

from case_jax import cli

SHORT = ("--contrast", "topk_logits:3", "--methods", "grad_cam", "random", "--tile", 3, "--limit", 12)
COMMANDS = {
    "evaluate": ("evaluate", *SHORT, "--part", 3, "--metrics", "sensitivity"),
    "pairs": ("pairs", *SHORT),
    "localise": ("localise", *SHORT),
    "sanity": ("sanity", *SHORT, "--depth", 1),
    "grid-pointing": ("grid-pointing", *SHORT, "--confidence", 0.01, "--no-difull"),
    "train": ("train", "classifier", "--limit", 12, "--epochs", 1, "--share", 1, "--batch", 3),
}
"""The smallest run of every command that takes long, by name."""


SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["case_jax.cli", "case_jax.report.evaluate", "scipy.stats"])


class Command:
    """`case-jax` in a process forked off one that has imported it: what `subprocess.Popen` would be, without its seconds."""

    def __init__(self, words, environment, log):
        self.process = SERVER.Process(
            target=_run, args=(list(map(str, words)), dict(environment), str(Path.cwd()), log)
        )
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        self.process.join(0)
        return self.process.exitcode

    def wait(self, seconds):
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("case-jax", seconds)
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.process.kill()


def _run(words, environment, folder, log):
    """What a fresh `python -m case_jax.cli` does."""
    for output, target in ((1, os.devnull), (2, log)):
        os.dup2(os.open(target, os.O_WRONLY | os.O_APPEND), output)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["case-jax", *words]
    for name in (
        "JAX_PLATFORMS",
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_DISABLE_MOST_OPTIMIZATIONS",
    ):  # JAX read them when it was imported
        if name in environment:
            jax.config.update(name.lower(), {"1": True}.get(environment[name], environment[name]))
    status = 1
    try:
        cli.main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()  # the server's way out leaves them
    sys.stderr.flush()
    os._exit(status)


def start(words, environment, program=None):
    """Start `case-jax`, or Python with `program` and these words; end it with `end`."""
    log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 (no pipe: nobody would empty it while the test waits)
    if program is None:
        return Command(words, environment, log.name), log
    command = [sys.executable, *program, *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log), log


def start_two(words, environment, *more):
    """Two processes that share a run; `more`: further words of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meeting = ("--coordinator", f"localhost:{free.getsockname()[1]}", "--process-count", 2)
    more = more or ((), ())
    return [start([*words, *meeting, "--process-id", n, *own], environment) for n, own in enumerate(more)]


def end(started, seconds):
    """Wait; exit status and stderr. A process that takes longer is killed, and the test fails."""
    process, log = started
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    log.seek(0)
    return process.returncode, log.read()


def succeed(started, seconds=300):
    """Wait for processes that must end well."""
    for one in started:
        status, errors = end(one, seconds)
        assert status == 0, errors


def on_devices(environment, count):
    """The environment with so many devices."""
    return {**environment, "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


def cpu_environment(cache):
    """This environment on the processor, with a compilation cache, so that dozens of starts compile once for each number of devices."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return {**kept, "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}
