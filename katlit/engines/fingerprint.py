"""Whether an engine holds the weights that it was sent, to the bit (our choice).

Of a vector all elements are compared, of a matrix a few whole columns. An engine may keep a matrix in an
order of its kernel's own, and still give a column of it exactly: it is the product with a unit vector.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_COLUMNS = 4


class Fingerprint(NamedTuple):
    """What a weight is compared by; plain texts, which also a server can send."""

    dtype: str  # torch's name of the type that the engine keeps the weight in
    digest: str  # SHA-256 of the sampled elements in that type


def columns(width: int) -> list[int]:
    """Which columns of a matrix of so many are compared: a few, evenly spaced."""
    return sorted({(2 * i + 1) * width // (2 * _COLUMNS) for i in range(_COLUMNS)})


def sampled(weight: Tensor) -> Tensor:
    """The elements of a weight that are compared: a vector [N], or columns [N, C] of a matrix [N, M]."""
    return weight if weight.ndim == 1 else weight[:, columns(weight.shape[1])]


def fingerprint(elements: Tensor) -> Fingerprint:
    """The fingerprint of sampled elements, in their own type."""
    # A product with a unit vector has lost the sign of a zero.
    stored = torch.where(elements == 0, 0.0, elements).to(elements.dtype).contiguous().cpu()
    digest = hashlib.sha256(stored.view(torch.uint8).numpy().tobytes()).hexdigest()
    return Fingerprint(str(elements.dtype).removeprefix("torch."), digest)


class SentWeights:
    """Keeps what weights are to be compared by, while they are on their way to an engine."""

    def __init__(self) -> None:
        self._elements: dict[str, Tensor] = {}

    def watch(self, named_weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Pass the weights on as they are."""
        for name, weight in named_weights:
            # A copy: the policy trains on in the same memory.
            self._elements[name] = sampled(weight.detach()).to("cpu", copy=True)
            yield name, weight

    def differing(self, loaded: Mapping[str, Fingerprint]) -> list[str]:
        """Names of the weights that the engine has otherwise than they were sent, or that are not finite.

        Args:
            loaded: Fingerprints of the engine's weights, of those that it can read back.
        """
        return [name for name, found in loaded.items() if not self._is(name, found)]

    def unread(self, loaded: Mapping[str, Fingerprint]) -> list[str]:
        """Names of the weights that were sent and cannot be read back."""
        return [name for name in self._elements if name not in loaded]

    def _is(self, name: str, found: Fingerprint) -> bool:
        elements = self._elements.get(name)
        if elements is None or not elements.isfinite().all():
            return False
        return fingerprint(elements.to(getattr(torch, found.dtype))) == found
