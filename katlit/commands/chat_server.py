"""The server that `katlit chat` starts for a directory, and ends."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from katlit.errors import UserError

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.5


@contextmanager
def started(model: str, max_model_len: int | None, further: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a server: the given one, or of one that serves the given directory meanwhile.

    Args:
        model: A URL or an export.
        max_model_len: Longest prompt plus reply, in tokens; None: what the model was made for.
        further: Options of vLLM that come last.

    Raises:
        UserError: where the directory is no export, vLLM is not installed, or the server does not come up.
    """
    if "://" in model:
        yield model
        return
    # Only here, since torch takes seconds to import.
    from katlit.engines.vllm.server.process import ServerProcess, free_port
    from katlit.engines.vllm.serving import require_vllm, serving
    from katlit.progress import told_while

    port = free_port(_HOST)
    server = serving(Path(model), _HOST, port, max_model_len, further)
    require_vllm()
    sys.stderr.write(f"starting vLLM for {model}, up to a minute …\n")
    with TemporaryDirectory(prefix="katlit-chat-") as folder:
        # Nobody is to change the weights through this port.
        variables = server.variables | {"VLLM_SERVER_DEV_MODE": "0"}
        log = Path(folder) / "log"
        process = ServerProcess(server.directory, server.options, variables, log, Path(folder))
        try:
            with told_while("vLLM starts", lambda line: sys.stderr.write(f"{line}\n")):
                while not _is_well(port):
                    if process.ended():
                        raise UserError(
                            f"vLLM did not start: {process.last_error()}; `katlit serve` shows it all"
                        )
                    time.sleep(_POLL_SECONDS)
            yield f"http://{_HOST}:{port}"
        finally:
            process.stop()


def _is_well(port: int) -> bool:
    connection = HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
