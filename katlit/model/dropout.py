"""Dropout of a policy: none, since the sampler has none and log-probabilities would part."""

import logging

from torch import nn
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def remove_dropout(model: nn.Module) -> None:
    """Set every dropout to 0, of layers and of adapters, in place; the log names those that were not.

    Models hold a probability in `nn.Dropout`, in an attribute of a layer that calls the function, or read it
    from their configuration as they run.

    Args:
        model: A Hugging Face model, or what holds some.
    """
    found: dict[str, float] = {}
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    for owner in [*model.modules(), *configs]:
        for name, value in list(vars(owner).items()):
            if _is_dropout(owner, name) and isinstance(value, float) and value > 0:
                found[name if name != "p" else "Dropout"] = value
                setattr(owner, name, 0.0)
    if found:
        told = ", ".join(f"{name} {value:g}" for name, value in sorted(found.items()))
        logger.warning("dropout is set to 0, for the sampler has none; it was: %s", told)


def _is_dropout(owner: object, name: str) -> bool:
    return "dropout" in name or name.endswith("pdrop") or (name == "p" and isinstance(owner, nn.Dropout))
