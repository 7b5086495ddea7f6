"""The student's tokenizer, which its data and its model have to share."""

from lightning.pytorch import Trainer

from katlit.errors import UserError
from katlit.model.pretrained import load_tokenizer
from katlit.stage.module import KatModule
from katlit.text.protocol import MARKERS, Protocol, prepare_tokenizer


def student_protocol(source: str, key: str, trainer: Trainer | None) -> Protocol:
    """Load a tokenizer and add the markers.

    Args:
        source: A directory or a name on the hub.
        key: The setting that names it, for the message.
        trainer: Knows the model that is trained on the data, if there is one.

    Raises:
        UserError: where that model has other tokens.
    """
    tokenizer = load_tokenizer(source, key)
    prepare_tokenizer(tokenizer)
    module = None if trainer is None else trainer.lightning_module
    if isinstance(module, KatModule):
        theirs = module.backbone.protocol.tokenizer
        ours, others = tokenizer.get_vocab(), theirs.get_vocab()
        tokens = [token for token in (*MARKERS, *ours, *others) if ours.get(token) != others.get(token)]
        if tokens:
            raise UserError(
                f"{key}: {source!r} has {tokens[0]} as token {ours.get(tokens[0])}, the model's tokenizer "
                f"{theirs.name_or_path!r} as {others.get(tokens[0])}; set {key} to the model's"
            )
    return Protocol(tokenizer)
