"""The one exception that reaches a user as a single line instead of a traceback."""


class UserError(Exception):
    """Something the user can mend: names the file, line or key, the value found, and what to do.

    `katlit.cli.main` prints it as one line on stderr and exits with status 2.
    """
