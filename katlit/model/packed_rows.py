"""Whether a model keeps the documents of a packed row apart.

The backbone says where documents begin by `position_ids` that start anew. Most decoders of transformers
make their masks from them; some do not (OPT, BLOOM, Falcon, MPT), and layers with a state of their own
(Mamba, linear attention) carry it on, without a word. So it is measured, once, when the weights are there.
"""

import warnings

import torch
from transformers import PreTrainedModel

from katlit.errors import UserError

_LENGTH = 4  # tokens of each document
_LEAST_SLACK = 1.0e-3  # of the mean magnitude; what a leak changes is of the order of 1


@torch.no_grad()
def require_documents_apart(model: PreTrainedModel, key: str) -> None:
    """Refuse a model whose documents see the ones before them in their row.

    One pass over two rows, which have the same second document and different first ones. Nothing is done on
    the meta device. A model that cannot run where it is, for want of kernels, is let pass with a warning.

    Args:
        model: With its weights, on any device.
        key: The setting that names it.

    Raises:
        UserError: where the second documents' hidden states differ.
    """
    table = model.get_input_embeddings().weight
    if table.is_meta:
        return
    tokens = torch.arange(3 * _LENGTH, device=table.device) % len(table)
    first, other, second = tokens.view(3, _LENGTH)
    input_ids = torch.stack([torch.cat([first, second]), torch.cat([other, second])])
    position_ids = torch.arange(_LENGTH, device=table.device).repeat(2, 2)
    training = model.training
    try:
        output = model.eval().base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False)
    except (RuntimeError, ValueError) as error:
        why = f"{type(error).__name__}: {str(error)[:100]!r}"
        told = (
            f"{key}: the model could not be tried on packed documents ({why}), so it may mix them; "
            "set packing to false to be sure"
        )
        warnings.warn(told, stacklevel=2)
        return
    finally:
        model.train(training)
    one, two = output.last_hidden_state[:, _LENGTH:].float()
    slack = max(_LEAST_SLACK, 4 * torch.finfo(table.dtype).eps) * one.abs().mean()
    if (one - two).abs().mean() > slack:
        raise UserError(
            f"{key}: in {model.config.model_type} models the documents of a packed row see each other, as "
            "transformers does not keep them apart there; choose another model"
        )
