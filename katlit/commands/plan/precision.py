"""How many bytes a number takes: where it is stored, on the residual stream, and in a matrix product."""

from dataclasses import dataclass

from katlit.errors import UserError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Precision:
    """Bytes of a number.

    Attributes:
        weights: Bytes of a stored weight, its gradient and each of its two optimizer states.
        stream: Bytes of a number in the residual stream.
        compute: Bytes of a number that enters or leaves a matrix product.
        master: Bytes of a second copy of the weights that the optimizer updates; 0 where there is none.
        states: Bytes of the two optimizer states of a weight together.
    """

    weights: int
    stream: int
    compute: int
    master: int
    states: int

    @property
    def autocast(self) -> bool:
        """Whether matrix products work on cast copies of the weights, which stay."""
        return self.compute != self.stream

    @property
    def mixed(self) -> bool:
        """Whether weights are stored in more bytes than they are computed with."""
        return self.compute != self.weights


def precision_of(dtype: str, precision: str, *, zero: bool, fsdp2: bool = False) -> Precision:
    """What `backbone.dtype` and `trainer.precision` come to.

    DeepSpeed keeps the model in half precision for both "true" and "mixed", and always a float32 master copy;
    under FSDP2 "mixed" gathers weights in half precision and stores them as they are; elsewhere it is
    autocast: weights as stored, matrix products in half precision.

    Args:
        dtype: Number format of the backbone.
        precision: Precision of the trainer, one of Lightning's words.
        zero: Whether DeepSpeed trains.
        fsdp2: Whether FSDP2 does.

    Raises:
        UserError: for a precision that we cannot count.
    """
    stored = BYTES[dtype]
    words = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "None": "32-true"}
    word = words.get(precision, precision)
    if word not in ("32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"):
        raise UserError(
            f"trainer.precision: {precision!r} is not planned for; give 32-true, bf16-true, bf16-mixed, "
            "16-true or 16-mixed"
        )
    half = not word.startswith("32")
    if zero:
        size = 2 if half else stored
        return Precision(size, size, size, master=4, states=8)
    if word.endswith("true"):
        size = 2 if half else stored
        return Precision(size, size, size, master=0, states=2 * size)
    return Precision(stored, 2 if fsdp2 else stored, 2, master=0, states=2 * stored)
