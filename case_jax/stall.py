"""How long a loop over batches stands still, what it waits for meanwhile, and from when on that is a stall."""

from case_jax._checks import require

LEAST, FIRST, TIMES = 5.0, 60.0, 10
"""Unless minutes are given: so many are never a stall; so many may pass before the first batch is done; else so many times the longest
wait so far are one."""
STATUS = 75
"""A stalled process's exit status: in sysexits.h that of a failure which may pass, so that the same command is worth another try."""


def require_stall(minutes: float | None) -> None:
    """Raise unless a number of minutes above 0, or None."""
    accepted = "a number of minutes above 0, for example 30; inf waits for ever"
    require(minutes is None or minutes > 0, "stall", minutes, accepted)


class Stall:
    """What a loop does, written by the loop; for how long it has done nothing else, counted by a thread that looks on.

    It is the thread's own seconds that count, so a process that was suspended has not waited meanwhile.

    Args:
        minutes: without a sign of life that are too many; None decides by `LEAST`, `FIRST` and `TIMES`; inf is never.

    Raises:
        CaseJaxError: unless minutes are above 0.
    """

    def __init__(self, minutes: float | None):
        require_stall(minutes)
        self._given = minutes
        self.waits_for = "its first batch"
        self._moves, self._batches = 0, 0  # of the loop alone
        self._seen, self._waited, self._longest = 0, 0.0, 0.0  # of the thread alone

    def moved(self, waits_for: str) -> None:
        """The loop has got further, and this is what it waits for now."""
        self.waits_for = waits_for
        self._moves += 1

    def finished(self) -> None:
        """A batch is done."""
        self._batches += 1
        self._moves += 1

    @property
    def minutes(self) -> float:
        """How many are too many, from what has been seen so far."""
        if self._given is not None:
            return self._given
        return max(LEAST, TIMES * self._longest / 60) if self._batches else FIRST

    def waited(self, seconds: float, *, busy: bool = False) -> bool:
        """Count the seconds since the thread last looked; whether the loop has stood still for too long.

        Where the devices are seen to be `busy`, they do not count until the first batch is done, unless minutes were given: nothing is known
        then of how long a batch takes.
        """
        if busy and self._given is None and not self._batches:
            return False
        if self._seen != self._moves:
            self._longest = max(self._longest, self._waited)
            self._seen, self._waited = self._moves, 0.0
        self._waited += seconds
        return self._waited > 60 * self.minutes
