"""SIGTERM and Ctrl-C as requests, and stalls: what is done is kept, then the process ends.

After a signal the batch in hand is finished. But Python runs a signal's handler only when the main thread is back in the interpreter, which
may be minutes away while a device computes, or never, where one hangs. So a thread of its own learns of the signal at once, another sees
that no batch finishes any more (`stall`), and either of them keeps what is done and ends the process itself.
"""

import contextlib
import faulthandler
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

from case_jax import parallel
from case_jax.stall import STATUS, Stall

Item = TypeVar("Item")
GRACE = 7.0
"""Seconds from SIGTERM until the batch in hand is given up; what stops machines waits 10 and more."""
KEEPING = 60.0
"""Seconds that keeping what is done may take: what hangs may be the disk."""
LOOK = 0.25
"""Seconds between two looks at whether batches still finish."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STARTS_ANEW = "nothing of it is kept, and the same command starts anew"
"""What there is to say where nothing is kept."""
NOT_KEPT = "more than was written before could not be kept"


class Stopping:
    """While this is entered, SIGTERM and Ctrl-C ask to stop; on leaving, what was asked for happens.

    A second signal, or a batch that takes longer than `GRACE` after SIGTERM, ends the process at once, with what is done kept; so does a
    stall, with the status `stall.STATUS` and every thread's stack on stderr. Outside of the main thread, where Python takes no signals,
    only stalls are seen.

    Args:
        keep: writes what is done and returns it in words; called once, from any thread.
        stall: minutes in which no batch finishes that are too many, see `Stall`; compiling a step does not count.
    """

    def __init__(self, keep: Callable[[], str], *, stall: float | None = math.inf):
        self._keep, self._kept = keep, threading.Lock()
        self._stall, self._watched = Stall(stall), stall != math.inf
        self._asked: signal.Signals | None = None
        self._ended = threading.Event()
        self._handlers: dict[signal.Signals, Any] = {}

    def until(
        self,
        stream: Generator[Item, None, None],
        name: Callable[[Item], str] = str,
        *,
        agreed: Callable[[int], int] = int,
    ) -> Generator[Item, None, None]:
        """The stream, up to where the signal comes; closed then.

        Args:
            stream: reads the images.
            name: of an item, to say where a stall is.
            agreed: for several processes that must end at the same batch: asked before every batch with the number of the signal that came
                here, 0 for none; the stream ends here as if the signal that it returns had come.
        """
        devices, last = _devices(), None
        with contextlib.closing(stream):
            while True:
                behind = "the first ones" if last is None else f"those behind {last}"
                self._stall.moved(f"images to be read, {behind}")
                item = next(stream, None)
                last = last if item is None else name(item)
                self._stall.moved(f"{devices}, which got {last} last")
                number = 0 if item is None else agreed(self._asked or 0)
                if number:
                    self._asked = self._asked or signal.Signals(number)
                if item is None or number:
                    return
                yield item

    def finished(self) -> None:
        """A batch is done: for whoever loops over what the devices return."""
        self._stall.finished()

    def __enter__(self) -> Self:
        if self._watched:
            threading.Thread(target=self._look_on, name="case_jax-stall", daemon=True).start()
        if threading.current_thread() is not threading.main_thread():
            return self
        self._receive, self._send = socket.socketpair()
        self._send.setblocking(False)
        self._handlers = {number: signal.signal(number, self._ask) for number in SIGNALS}
        self._woken = signal.set_wakeup_fd(self._send.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="case_jax-stopping", daemon=True)
        self._thread.start()
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        """Python's handler, which only has to exist: `_listen` does the work."""

    def _listen(self) -> None:
        while word := self._receive.recv(1):
            if word[0] not in SIGNALS:
                continue
            number = signal.Signals(word[0])
            if self._asked is not None:
                self._end(128 + number, f"stopped by {number.name}")
            self._asked = number
            threading.Thread(target=self._limit, args=(number,), daemon=True).start()
            _say(f"{number.name}: finishing the batch in hand; once more ends at once")

    def _limit(self, number: signal.Signals) -> None:
        if number is signal.SIGTERM and not self._ended.wait(GRACE):
            self._end(128 + number, f"stopped by {number.name}")

    def _look_on(self) -> None:
        (number, count), stall = parallel.process(), self._stall
        processors, used = parallel.platform() == "cpu", time.process_time()
        while not self._ended.wait(LOOK):
            before, used = used, time.process_time()
            busy = processors and used - before > LOOK / 10
            if not parallel.compiling() and stall.waited(LOOK, busy=busy):
                with contextlib.suppress(Exception):  # a stderr that is no file
                    faulthandler.dump_traceback(sys.stderr)
                why = f"no batch has finished for {stall.minutes:.3g} minutes: process {number} of {count} waits for {stall.waits_for}"
                self._end(STATUS, why, " (give --stall MINUTES where a batch may take longer)")
                return

    def _end(self, status: int, why: str, more: str = "") -> None:
        """Keep what is done, within a minute, and end the process, whatever the main thread does."""
        kept: list[str] = []
        with self._kept:
            if self._ended.is_set():
                return
            keeping = threading.Thread(target=lambda: kept.append(self._keep()), daemon=True)
            keeping.start()
            keeping.join(KEEPING)
            _say(f"{why}; {kept[0] if kept else NOT_KEPT}{more}")
            os._exit(status)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._kept:
            if self._asked is not None and kind is None:
                _say(f"stopped by {self._asked.name}; {self._keep()}")
            self._ended.set()
        if not self._handlers:
            if self._asked is not None and kind is None:  # by another process
                raise SystemExit(128 + self._asked)
            return
        signal.set_wakeup_fd(self._woken)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._send.close()
        self._thread.join()
        self._receive.close()
        if self._asked is not None and kind is None:
            signal.raise_signal(self._asked)
            raise SystemExit(128 + self._asked)  # where a handler of the program's own has returned


def _devices() -> str:
    names = parallel.device_names()
    return f"its {len(names)} devices ({names[0]})" if len(names) > 1 else f"its device ({names[0]})"


def _say(line: str) -> None:
    tqdm.write(f"case-jax: {line}", file=sys.stderr)
