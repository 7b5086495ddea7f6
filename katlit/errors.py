"""The one exception that reaches a user as a single line instead of a traceback."""


class UserError(Exception):
    """Something the user can mend: names the file, line or key, the value found, and what to do.

    `katlit.cli.main` prints it as one line on stderr and exits with status 2.
    """


class NonFiniteError(UserError):
    """A loss, gradient or weight that is not finite: what is in memory is not worth a checkpoint."""


def require(holds: bool, key: str, value: object, mend: str) -> None:
    """Refuse a value that is out of range.

    Args:
        holds: Whether the value will do; a comparison with NaN never holds.
        key: The setting.
        value: What it was set to.
        mend: What to set it to.

    Raises:
        UserError: naming all three.
    """
    if not holds:
        raise UserError(f"{key}: {value}; give {mend}")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type where it has none."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
