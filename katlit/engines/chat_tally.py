"""What became of requests to a server, in numbers."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """What became of requests; those that were in flight when all ended are among `requests` alone."""

    requests: int = 0
    attempts: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # requests without a reply, by the reason
    failed: Counter[str] = field(default_factory=Counter)  # the same, where another time may do
    lost: Counter[str] = field(default_factory=Counter)  # both, by the status or what came in its place
    faults: Counter[str] = field(default_factory=Counter)  # attempts that failed, by the same
    lost_in_a_row: int = 0

    def add(self, other: "Tally") -> None:
        """Add what became of other requests."""
        self.requests += other.requests
        self.attempts += other.attempts
        self.answered += other.answered
        self.refused += other.refused
        self.failed += other.failed
        self.lost += other.lost
        self.faults += other.faults
