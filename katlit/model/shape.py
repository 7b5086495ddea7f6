"""The shape of a decoder: its widths and its numbers of parameters, from a model without weights."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from katlit.errors import UserError
from katlit.model.depth import UPSCALED_LAYERS


@dataclass(frozen=True)
class Shape:
    """What memory and arithmetic of a decoder depend on.

    Attributes:
        hidden: Width of the residual stream.
        heads: Attention heads.
        query: Width of all queries, heads times their size.
        key_value: Width of all keys; that of all values.
        intermediate: Width of the MLP, or of one expert.
        vocabulary: Rows of the embedding.
        layers: Decoder layers.
        layer: Parameters of the largest one.
        parameters: All of the model, the MTP modules left out.
        tied: Whether the embedding is the output head too.
        experts: Number of experts of a layer; 0 where the MLP is dense.
        experts_per_token: How many of them a token passes.
        shared: Width of the expert that every token passes beside them; 0 where there is none.
        expert_parameters: Parameters of all experts of all layers, the MTP modules left out.
        qk_norm: Whether queries and keys are normalised.
        mtp_depth: MTP modules, each with a decoder layer of its own.
        new_layers: Those that `katlit.model.depth` has put in.
    """

    hidden: int
    heads: int
    query: int
    key_value: int
    intermediate: int
    vocabulary: int
    layers: int
    layer: int
    parameters: int
    tied: bool
    experts: int = 0
    experts_per_token: int = 0
    shared: int = 0
    expert_parameters: int = 0
    qk_norm: bool = False
    mtp_depth: int = 0
    new_layers: int = 0

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; as many has the output head."""
        return self.vocabulary * self.hidden

    @property
    def mtp_parameters(self) -> int:
        """Parameters of all MTP modules: in each a layer, a projection [hidden ; embedding], three norms."""
        return self.mtp_depth * (self.layer + 2 * self.hidden**2 + 3 * self.hidden)

    @property
    def total(self) -> int:
        """Number of all parameters, those of the MTP modules included."""
        return self.parameters + self.mtp_parameters

    @property
    def root(self) -> int:
        """Parameters outside the decoder layers and the MTP modules' layers: what FSDP2 keeps as one unit."""
        return self.total - (self.layers + self.mtp_depth) * self.layer

    @property
    def idle(self) -> int:
        """Parameters of the experts that a token does not pass."""
        if not self.experts:
            return 0
        return self.expert_parameters * (self.experts - self.experts_per_token) // self.experts

    @property
    def active(self) -> int:
        """Parameters of the model that multiply a token: not the idle experts, not a mere look-up table."""
        return self.parameters - self.idle - (0 if self.tied else self.embedding)

    @property
    def mtp_active(self) -> int:
        """Parameters that the MTP modules add to `active`; each uses the head once more."""
        return self.mtp_parameters + self.mtp_depth * (self.embedding - self.idle // self.layers)


@dataclass(frozen=True)
class Adapters:
    """What LoRA adds to a model, whose own parameters are frozen then; see `katlit.model.lora`.

    Attributes:
        parameters: All that are trained, in float32: adapters, and the markers' rows of embedding and head.
        inputs: Widths of the inputs of all adapted layers, added up.
        ranks: Their ranks, added up.
        rows: Whether rows of the tables are trained, for which each table is copied.
    """

    parameters: int
    inputs: int
    ranks: int
    rows: bool


def adapters_of(model: PreTrainedModel) -> Adapters:
    """Measure the adapters of a model that `add_adapters` has given some."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    first = [weight.shape for name, weight in trained.items() if ".lora_A." in name]
    return Adapters(
        parameters=sum(weight.numel() for weight in trained.values()),
        inputs=sum(width for _, width in first),
        ranks=sum(rank for rank, _ in first),
        rows=any(".trainable_tokens_delta." in name for name in trained),
    )


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shape_of(model: PreTrainedModel, mtp_depth: int = 0) -> Shape:
    """Measure a model; one on the meta device will do.

    Args:
        model: A Llama-like decoder, dense or with experts as transformers lays them out.
        mtp_depth: MTP modules beside it.

    Raises:
        UserError: where the model is none.
    """
    config: Any = model.config
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(config, "num_key_value_heads"):
        raise UserError(f"plan: {config.model_type} is no Llama-like decoder; choose another model")
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    experts = [_numel(part.experts) for part in model.modules() if hasattr(part, "experts")]
    names = {name.rpartition(".")[2] for name, _ in layers[0].named_modules()}
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return Shape(
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        query=config.num_attention_heads * head_size,
        key_value=config.num_key_value_heads * head_size,
        # Mixtral's experts are as wide as its configuration says of an MLP.
        intermediate=(getattr(config, "moe_intermediate_size", None) if experts else None)
        or config.intermediate_size,
        vocabulary=embedding.shape[0],
        layers=len(layers),
        layer=max(map(_numel, layers)),
        parameters=_numel(model),
        tied=embedding is head,
        experts=config.num_experts if experts else 0,
        experts_per_token=config.num_experts_per_tok if experts else 0,
        shared=getattr(config, "shared_expert_intermediate_size", 0) if experts else 0,
        expert_parameters=sum(experts),
        qk_norm="q_norm" in names,
        mtp_depth=mtp_depth,
        new_layers=len(getattr(config, UPSCALED_LAYERS, ())),
    )
