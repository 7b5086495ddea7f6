"""From a name on the Hugging Face hub to a directory on this machine."""

from functools import cache
from pathlib import Path

from huggingface_hub import snapshot_download

from katlit.errors import UserError, first_line

_DESCRIPTION = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "README.md"]
_WEIGHTS = ["*.safetensors", "*.bin"]
# The same weights once more, in forms that nothing here reads.
_OTHER_FORMS = ["original/*", "onnx/*", "openvino/*", "consolidated*"]


def local_directory(source: str, key: str, *, weights: bool = True) -> Path:
    """Return the directory of a model, which is fetched from the hub if only a name is given.

    What is in the local cache is not fetched again, and with HF_HUB_OFFLINE set nothing else is looked at.

    Args:
        source: A directory or a name on the hub.
        key: The setting that names it, for the message.
        weights: Fetch them too; the configuration and the tokenizer are small.

    Raises:
        UserError: where it is neither a directory nor to be had from cache or hub, or lacks its weights.
    """
    if Path(source).is_dir():
        return Path(source)
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(
            f"{key}: directory {source!r} does not exist; give a model directory or a name on the hub"
        )
    try:
        directory = Path(_snapshot(source, weights))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{key}: {source!r} is no directory, and the Hugging Face hub cannot give it "
            f"({first_line(error)}); give a model directory, or a name that is on the hub or in its cache"
        ) from error
    if weights and not any(path for pattern in _WEIGHTS for path in directory.glob(pattern)):
        raise UserError(
            f"{key}: {source!r} is on this machine without its weights ({directory}); "
            f"get them by `hf download {source}`"
        )
    return directory


def named_commit(name: str) -> str:
    """Return a name on the hub with its commit, after which the folder in the hub's cache is called."""
    return f"{name}@{local_directory(name, 'model', weights=False).name}"


@cache
def _snapshot(name: str, weights: bool) -> str:
    patterns = _DESCRIPTION + (_WEIGHTS if weights else [])
    return str(snapshot_download(name, allow_patterns=patterns, ignore_patterns=_OTHER_FORMS))
