"""When a request may go out to a server that counts them: a rate, and waits that grow; no clock in here."""

from random import Random

_YEAR = 366 * 24 * 3600.0


class Pace:
    """Spreads amounts evenly, so that no minute has more than a limit.

    Args:
        per_minute: The limit; None: there is none.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 0.0 if per_minute is None else 60.0 / per_minute  # for one
        self._free = 0.0  # when the next one may come

    def reserve(self, amount: float, now: float) -> float:
        """Take an amount; returns the seconds to wait before it may be used."""
        start = max(now, self._free)
        self._free = start + amount * self._seconds
        return start - now

    def correct(self, difference: float) -> None:
        """Add to what was taken, once it is known how much it was."""
        self._free += difference * self._seconds


def backoff(attempt: int, longest: float, random: Random) -> float:
    """Seconds to wait before another attempt: exponential, with full jitter.

    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; never below a tenth (our choice).

    Args:
        attempt: Attempts that failed, from 1.
        longest: Most seconds.
        random: Source of the jitter.
    """
    most = min(longest, 2.0 ** (attempt - 1))
    return random.uniform(0.1 * most, most)


def seconds_of(retry_after: str | None) -> float | None:
    """Seconds of a `Retry-After`; its other form, a date, and more than a year are left to the back-off."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds <= _YEAR else None
