"""Commands, and as whole processes, one or two that share a run, for tests that kill them."""

import os
import socket
import subprocess
import sys
import tempfile

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


def start(words, environment, program=("-m", "case_jax.cli")):
    """Start `case-jax`, or what else is given to Python, with these words; end it with `end`."""
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (no pipe: nobody would empty it while the test waits)
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
