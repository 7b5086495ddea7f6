"""Watches a server of our own, and starts it once more with the present weights if it fails."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from katlit.engines.vllm.server.client import ServerClient, ServerDownError
from katlit.engines.vllm.server.process import ServerProcess
from katlit.errors import UserError
from katlit.progress import told_while

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights that a server starts from, and their name."""

    directory: Path
    version: str


class Supervisor:
    """Owns the server's processes, and a thread that watches them whatever the trainer is waiting for.

    Args:
        launch: Starts the processes from a model directory.
        prepare: Called once they answer, before anything is sampled; raises ServerDownError where it fails.
        client: Talks to the server.
        checkpoint: To start from. Replaced at each sync, before the weights are sent: a server that has to be
            started again then has the newest ones.
        start_timeout: Seconds until the server must answer.
    """

    def __init__(
        self,
        launch: Callable[[Path], ServerProcess],
        prepare: Callable[[], None],
        client: ServerClient,
        checkpoint: Checkpoint,
        start_timeout: float,
    ) -> None:
        self.checkpoint = checkpoint
        self.failure: str | None = None  # why there is no server, and will be none
        self.restarts = 0
        self.lock = threading.Lock()  # held while weights are sent: no restart, and no old name for new ones
        self._launch, self._prepare = launch, prepare
        self._client = client
        self._start_timeout = start_timeout
        self._closing = threading.Event()
        self._process: ServerProcess | None = None
        self._thread = threading.Thread(target=self._watch, name="vllm-server-supervisor", daemon=True)

    def start(self) -> None:
        """Start the server, wait until it answers, and watch it from then on.

        Raises:
            UserError: where it does not come up.
        """
        self._start_process()
        self._thread.start()

    @property
    def process(self) -> ServerProcess:
        """The present processes."""
        if self._process is None:
            raise RuntimeError("Supervisor: not started")
        return self._process

    def close(self) -> None:
        """End the watch and the server."""
        self._closing.set()
        if self._process is not None:
            self._process.stop()  # whatever the watch asks the server fails from now on
        if self._thread.is_alive():
            self._thread.join()
            self.process.stop()  # the watch may have been starting another one

    def _start_process(self) -> None:
        if self._closing.is_set():
            raise UserError("vLLM server: closed")
        checkpoint = self.checkpoint
        self._process = self._launch(checkpoint.directory)
        try:
            with told_while("vLLM's server starts"):
                self._wait_until_up(self._process)
            self._process.forget_log()
            self._prepare()
            self._client.post("/update_weight_version", {"new_version": checkpoint.version})
        except ServerDownError as error:
            raise UserError(f"vLLM server: {error}; {self._process.last_error()}") from None

    def _wait_until_up(self, process: ServerProcess) -> None:
        deadline = time.monotonic() + self._start_timeout
        while not self._closing.wait(_POLL_SECONDS):
            if process.ended():
                raise ServerDownError("it ended while it started")
            try:
                self._client.probe()
            except ServerDownError:
                if time.monotonic() > deadline:
                    raise ServerDownError(f"not up after start_timeout {self._start_timeout:g} s") from None
            else:
                return
        raise ServerDownError("closed while it started")

    def _watch(self) -> None:
        while not self._closing.wait(_POLL_SECONDS) and self.failure is None:
            if self._fault() is None:
                continue
            with self.lock:
                reason = self._fault()  # it may only have been busy with new weights
                if reason is not None and not self._closing.is_set():
                    self._recover(reason)

    def _fault(self) -> str | None:
        """What is wrong with the server."""
        if self.process.ended():
            return "it ended"
        try:
            self._client.probe()
        except (ServerDownError, UserError) as error:
            return str(error)
        return None

    def _recover(self, reason: str) -> None:
        """Start the server again, once."""
        try:
            reason = f"{reason}; {self.process.last_error()}"
            self.process.stop(kill=True)
            if self.restarts:
                self.failure = f"vLLM server failed again after a restart: {reason}"
                return
            self.restarts += 1
            logger.warning("vLLM server failed (%s); starting it again", reason)
            self._start_process()
        except (UserError, OSError) as error:  # nobody sees what ends this thread
            self.failure = f"vLLM server failed ({reason}) and did not come back: {error}"
            self.process.stop(kill=True)
