"""Writing and reading the directory that passes from stage to stage.

An ordinary Hugging Face directory, and in its folder `mtp` the first MTP module, as vLLM's speculative
decoding takes it: a configuration that names the drafter, and weights under the drafter's names. vLLM's
drafter knows no second one, so further modules are in `mtp/deeper`. What loads the model itself
(transformers, vLLM) looks for weights in the directory only and leaves the folder alone; so does the drafter
with the folder within.

Weights are written in the type that the trained module holds them in, and `config.json` names it: float32
with precision 32-true and bf16-mixed, bfloat16 with bf16-true. DeepSpeed holds bfloat16 weights with
bf16-mixed too, and their float32 masters in the optimizer: what is written then is what it computed with.

An export reads itself before it appears. Plain transformers has to find each weight, bit for bit the one
that was trained; so the class that `config.json` names computes the trained log-probabilities. Exports above
4 GiB are left unread, since that takes their memory a second time.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from katlit.errors import UserError
from katlit.model.card import write_card
from katlit.model.experts import unpacked
from katlit.model.generation import TokenSampling, generation_settings
from katlit.model.mtp import DRAFTER_PREFIX, MTP_ARCHITECTURES, MTP_FOLDER
from katlit.model.pretrained import heads_are_tied
from katlit.output import replacing_directory
from katlit.text.protocol import Protocol
from katlit.text.saved_tokenizer import save_tokenizer

_CHECKED_BYTES = 2**32
_DEEPER = "deeper"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"  # where the weights are several files


def write_directory(
    directory: str | Path,
    model: PreTrainedModel,
    weights: dict[str, Tensor],
    mtp_weights: dict[str, Tensor],
    protocol: Protocol,
    sampling: TokenSampling,
    record: Mapping[str, Any],
) -> None:
    """Write all or nothing: a directory of that name appears only when it is complete.

    Args:
        directory: Where to. A model directory of that name is replaced.
        model: Gives the configuration; its own weights are not read.
        weights: Full tensors on the CPU, under Hugging Face names. Their type is the one that
            `config.json` names.
        mtp_weights: Full tensors on the CPU, under the names of `katlit.model.mtp.stored_name`; may be empty.
        protocol: Its tokenizer is written, with markers and chat template.
        sampling: How whoever serves the model samples by default.
        record: What the model card tells of base and stages, see `katlit.model.card`.

    Raises:
        UserError: where the directory holds something else than a model, or plain transformers would read
            another model or tokenizer from it.
    """
    with replacing_directory(directory, "config.json") as new:
        _fill(new, model, weights, mtp_weights, protocol, sampling)
        _check_weights(new, weights)
        write_card(new, record)


def _fill(
    directory: Path,
    model: PreTrainedModel,
    weights: dict[str, Tensor],
    mtp_weights: dict[str, Tensor],
    protocol: Protocol,
    sampling: TokenSampling,
) -> None:
    model.generation_config = generation_settings(model, protocol, sampling)
    model.config.update({"eos_token_id": protocol.end_id, "pad_token_id": protocol.pad_id})
    depths = {name.split(".")[2] for name in mtp_weights}
    model.config.num_nextn_predict_layers = len(depths)
    number = sum(weight.numel() for weight in weights.values())
    model.save_pretrained(directory, state_dict=dict(weights))  # which empties what it is given
    _count_parameters(directory / _INDEX, number)
    save_tokenizer(protocol, directory)
    if mtp_weights:
        _write_mtp(directory / MTP_FOLDER, model.config, mtp_weights)


def _check_weights(directory: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse what plain transformers would not read as the model that was trained."""
    if sum(weight.nbytes for weight in weights.values()) > _CHECKED_BYTES:
        return
    with torch.random.fork_rng(devices=[]):  # weights that it does not find are drawn
        loaded = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    found = dict(unpacked(loaded.state_dict().items()))
    if heads_are_tied(loaded):
        found.pop("lm_head.weight", None)
    wrong = [
        name
        for name in sorted(found.keys() | weights.keys())
        if not _same(found.get(name), weights.get(name))
    ]
    if wrong:
        raise UserError(
            f"export: transformers does not read the weights that were trained ({len(wrong)} differ, "
            f"{wrong[0]} for one); use a model type that it saves and loads as it is"
        )


def _same(found: Tensor | None, trained: Tensor | None) -> bool:
    if found is None or trained is None or found.shape != trained.shape:
        return False
    return torch.equal(_bits(found), _bits(trained.to(found.dtype)))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)  # as numbers, no NaN is equal to itself


def _count_parameters(index: Path, number: int) -> None:
    """Set the number of parameters in the index of several files: transformers counts one rank's shards."""
    if index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["metadata"]["total_parameters"] = number
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_mtp(folder: Path, config: PretrainedConfig, weights: dict[str, Tensor]) -> None:
    own = copy.deepcopy(config)
    own.num_nextn_predict_layers = 1
    if config.model_type in MTP_ARCHITECTURES:
        own.architectures = [MTP_ARCHITECTURES[config.model_type]]
    folder.mkdir()
    own.save_pretrained(folder)
    drafter = {name: weight for name, weight in weights.items() if name.startswith(DRAFTER_PREFIX)}
    save_file(drafter, folder / _WEIGHTS, metadata={"format": "pt"})
    deeper = {name: weight for name, weight in weights.items() if name not in drafter}
    if deeper:
        (folder / _DEEPER).mkdir()
        save_file(deeper, folder / _DEEPER / _WEIGHTS, metadata={"format": "pt"})


def read_mtp(directory: str | Path) -> dict[str, Tensor]:
    """The MTP weights of a directory under their stored names; empty where it has none."""
    folder = Path(directory) / MTP_FOLDER
    return {
        name: weight
        for path in (folder / _WEIGHTS, folder / _DEEPER / _WEIGHTS)
        if path.is_file()
        for name, weight in load_file(path).items()
    }
