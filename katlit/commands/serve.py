"""`katlit serve`: the command that serves an export to OpenAI's clients, printed and run."""

import argparse
import os
import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from katlit.engines.vllm.serving import Serving, require_vllm, serving
from katlit.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Serve a model that katlit exported, by vLLM, to any OpenAI client, which asks for the model `kat`.

    Args:
        arguments: What follows `katlit serve`; `--help` lists them.

    Returns:
        The exit status, where the command is only printed; vLLM takes this process's place otherwise.

    Raises:
        UserError: where the directory is no export, the port is taken, or vLLM is not installed.
    """
    own, further = _split(arguments)
    parser = argparse.ArgumentParser(
        prog="katlit serve",
        usage="katlit serve DIR [options] [-- options of vLLM]",
        description=main.__doc__.splitlines()[0],  # type: ignore[union-attr]
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="what a stage exported")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; only this machine by default"
    )
    parser.add_argument("--port", type=port_number, default=8000, help="port to listen on (8000)")
    parser.add_argument("--max-model-len", type=int, metavar="TOKENS",
                        help="longest prompt plus reply; what the model was made for by default")  # fmt: skip
    parser.add_argument("--print-only", action="store_true", help="print the command, do not run it")
    given = parser.parse_args(own)
    server = serving(given.directory, given.host, given.port, given.max_model_len, further)
    sys.stdout.write(printed(server) + "\n")
    if not given.print_only:
        require_vllm()
        _require_free(given.host, given.port)
        _become(server)
    return 0


def _become(server: Serving) -> None:
    """Run the server in place of this process, so that ctrl-C and a supervisor's signals are vLLM's own."""
    sys.stdout.flush()
    program = server.command()
    try:
        os.execvpe(program[0], program, os.environ | server.variables)  # noqa: S606 (no shell is wanted)
    except OSError as error:
        raise UserError(
            f"{program[0]}: vLLM's command cannot be run ({error.strerror}); install vllm again in this "
            "environment, or run the printed command in the one that has it"
        ) from error


def printed(server: Serving) -> str:
    """The command as a line for a shell."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in server.variables.items()]
    return " ".join([*variables, shlex.join(server.command())])


def port_number(text: str) -> int:
    """Read a port from the command line."""
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 1 to 65535")
    return int(text)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is ours, and what follows `--`."""
    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut + 1 :]


def _require_free(host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"--host: {host!r} is no address of this machine ({error.strerror})") from error
    family, kind, _, _, address = found[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM binds
        try:
            probe.bind(address)
        except OSError as error:
            raise UserError(
                f"--port: {port} on {host} cannot be listened on ({error.strerror}); give another one"
            ) from error
