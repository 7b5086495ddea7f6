"""The model that all three stages share: a Hugging Face causal LM with markers and MTP modules.

Shapes: B rows, L tokens, H width, V vocabulary. A row may hold several documents, see `katlit.batch`: only
`position_ids` are passed on, from whose restarts transformers builds the block-diagonal causal mask.

Over 300 lines because each setting of a model is an argument that is documented here.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from katlit.errors import UserError, require
from katlit.model.card import base_record, with_stage
from katlit.model.depth import DepthSettings, deepen
from katlit.model.experts import check_experts, recorded_logits, unpacked
from katlit.model.export import read_mtp, write_directory
from katlit.model.generation import TokenSampling
from katlit.model.lora import LoraSettings, add_adapters, merged_weights, trained_rows, write_adapters
from katlit.model.mtp import MTP_PREFIX, MTPModule, future_embeddings, stored_name
from katlit.model.packed_rows import require_documents_apart
from katlit.model.pretrained import (
    Attention,
    Dtype,
    build_model,
    grow_vocabulary,
    heads_are_tied,
    load_model,
    load_tokenizer,
    output_weight,
    redraw_alike,
)
from katlit.parallel.gather import is_rank_zero, whole_tensors
from katlit.text.protocol import Protocol, prepare_tokenizer

logger = logging.getLogger(__name__)

_SAMPLING = TokenSampling()


class HiddenStates(NamedTuple):
    """What the output head turns into logits, [B, L, H] after the final norm; and how tokens were routed."""

    main: Tensor  # position t predicts t+1
    mtp: tuple[Tensor, ...]  # one a depth k = 1…D, position t predicts t+k+1; empty if not asked for
    routing: tuple[Tensor, ...]  # router logits [B * L, E] of each layer with experts, those of MTP last


class Backbone(nn.Module):
    """A causal language model for all stages.

    The constructor keeps settings only; `materialize` allocates. Of `init_from`, `model` and `config` the
    first that is given counts, so a later settings file can add `init_from` and leave the rest.

    Args:
        model: Name on the hub or directory of a Hugging Face causal language model.
        config: Bare configuration, `model_type` and what differs from its defaults; weights start fresh and
            `vocab_size` follows from the tokenizer.
        tokenizer: Name or directory; needed with `config`, else the model's own by default.
        init_from: A directory exported by the previous stage; brings tokenizer, markers and MTP modules.
        mtp_depth: Number of MTP modules; those that `init_from` lacks start as `MTPModule` says. None: as
            many as `init_from` has.
        dtype: Type of the weights.
        attention: Implementation of attention.
        gradient_checkpointing: Keep only each layer's input and recompute the rest in the backward pass.
        seed: Seed of fresh weights, of the rows of new tokens, of those that `redraw_alike` draws anew in
            what no stage has exported, and of adapters.
        lora: Low-rank adaptation: all weights but the adapters', the markers' rows and the MTP modules are
            frozen. None: all are trained.
        router_loss_weight: Weight of the load-balancing loss of a mixture of experts
            (`KatModule.add_router_loss`); 0 leaves it out. None: the model's own `router_aux_loss_coef`, or 0
            with `lora`, under which routers are frozen.
        depth: Makes `model` deeper by copies of its layers that change nothing until they are trained. None:
            the layers that it has.

    Raises:
        UserError: for `depth` together with `lora`.
    """

    causal_lm: PreTrainedModel  # set by `materialize`

    def __init__(
        self,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        init_from: str | None = None,
        mtp_depth: int | None = None,
        dtype: Dtype = "float32",
        attention: Attention = "sdpa",
        gradient_checkpointing: bool = False,
        seed: int = 0,
        lora: LoraSettings | None = None,
        router_loss_weight: float | None = None,
        depth: DepthSettings | None = None,
    ) -> None:
        if router_loss_weight is not None and not router_loss_weight >= 0:
            raise UserError(f"backbone.router_loss_weight: {router_loss_weight}; give 0 or more, or null")
        require(mtp_depth is None or mtp_depth >= 0, "backbone.mtp_depth", mtp_depth, "0 or more, or null")
        super().__init__()
        if depth is not None and lora is not None:
            raise UserError(
                "backbone.depth: new layers start at zero and want whole training, but backbone.lora is set; "
                "set one of the two to null"
            )
        self.model = model
        self.config = config
        self.tokenizer = tokenizer
        self.init_from = init_from
        self.mtp_depth = mtp_depth
        self.dtype: Dtype = dtype
        self.attention: Attention = attention
        self.gradient_checkpointing = gradient_checkpointing
        self.seed = seed
        self.lora = lora
        self.router_loss_weight = router_loss_weight
        self.depth = depth
        self.mtp = nn.ModuleList()
        self._protocol: Protocol | None = None
        self._first_new_token = 0
        self._trained_rows: list[int] = []  # beside adapters
        self._record: dict[str, Any] = {}  # of base and stages before, for the model card

    @property
    def protocol(self) -> Protocol:
        """The tokenizer with markers; loaded at first use, without any weights."""
        return self.load_tokenizer()

    def load_tokenizer(self) -> Protocol:
        """Load the tokenizer and add the markers, once.

        Raises:
            UserError: where no tokenizer is named or found.
        """
        if self._protocol is None:
            key, source = self._tokenizer_source()
            tokenizer = load_tokenizer(source, key)
            added = prepare_tokenizer(tokenizer)
            self._first_new_token = len(tokenizer) - added
            self._protocol = Protocol(tokenizer)
        return self._protocol

    def _tokenizer_source(self) -> tuple[str, str]:
        for name in ("init_from", "tokenizer", "model"):
            source = getattr(self, name)
            if source is not None:
                return f"backbone.{name}", source
        raise UserError("backbone.tokenizer: not given; with a bare config, name a tokenizer")

    def materialize(self) -> None:
        """Load or create the weights, make room for the markers, add the MTP modules; only the first time.

        Everything lands on the CPU; the strategy moves or shards it.

        Raises:
            UserError: where a directory, its configuration or its tokenizer is missing, MTP is asked of a
                model that has no Llama-like decoder, documents of a packed row see each other, or `lora`
                trains no markers that the model never met.
        """
        if self.is_materialized:
            return
        protocol = self.load_tokenizer()
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self._create(len(protocol.tokenizer))
            self._record = base_record(self.init_from or self.model, "backbone")
            check_experts(model, self.router_loss_weight)
            require_documents_apart(model, "backbone")
            self._prepare_rows(model, protocol)
            if self.gradient_checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            self.causal_lm = model
            self._add_mtp()
            # After the MTP modules, which copy the last layer as it is:
            if self.depth is not None:
                deepen(model, self.depth)
            if self.lora is not None:
                self._trained_rows = self.adapted_rows(self.lora)
                add_adapters(model, self.lora, self._trained_rows)

    def _prepare_rows(self, model: PreTrainedModel, protocol: Protocol) -> None:
        """Make rows for new tokens, and tell markers apart that a base has but never met."""
        generator = torch.Generator().manual_seed(self.seed)
        grow_vocabulary(model, len(protocol.tokenizer), self._first_new_token, generator)
        if self._record["stages"]:  # these have trained the markers
            return
        drawn = redraw_alike(model, sorted(protocol.marker_ids.values()), generator)
        if drawn and is_rank_zero():
            names = protocol.tokenizer.convert_ids_to_tokens(drawn)
            logger.info("%s had all but the same row, new ones were drawn", ", ".join(names))
        if drawn and self.lora is not None and not self.lora.train_markers:
            raise UserError(
                f"backbone.lora.train_markers: false, but {len(drawn)} markers have all but the same row, "
                "as this base never met them; set it to true, or init_from to the export of a stage"
            )

    def adapted_rows(self, lora: LoraSettings) -> list[int]:
        """Tokens whose rows are trained beside adapters; see `katlit.model.lora.trained_rows`."""
        protocol = self.load_tokenizer()
        return trained_rows(lora, protocol, range(self._first_new_token, len(protocol.tokenizer)))

    @property
    def is_materialized(self) -> bool:
        """Whether there are weights."""
        return hasattr(self, "causal_lm")

    def _create(self, vocabulary: int) -> PreTrainedModel:
        if self.init_from is not None:
            return load_model(self.init_from, "backbone.init_from", self.dtype, self.attention)
        if self.model is not None:
            return load_model(self.model, "backbone.model", self.dtype, self.attention)
        if self.config is None:
            raise UserError("backbone: give model (a name or directory), config or init_from")
        return build_model(self.config, vocabulary, "backbone.config", self.dtype, self.attention)

    def _add_mtp(self) -> None:
        stored = read_mtp(self.init_from) if self.init_from is not None else {}
        available = len({name.split(".")[2] for name in stored})
        depth = available if self.mtp_depth is None else self.mtp_depth
        if depth == 0:
            return
        layers, norm = self.decoder()
        config = self.causal_lm.config
        for _ in range(depth):
            self.mtp.append(MTPModule(layers[-1], norm, config.hidden_size, config.initializer_range))
        kept = {name for name in self.mtp.state_dict() if int(name.partition(".")[0]) < available}
        self.mtp.load_state_dict({name: stored[stored_name(name)] for name in kept}, strict=False)

    def decoder(self) -> tuple[nn.ModuleList, nn.Module]:
        """The decoder layers and the final norm.

        Raises:
            UserError: where the model has none under the names of Llama-like decoders.
        """
        base = self.causal_lm.base_model
        layers, norm = getattr(base, "layers", None), getattr(base, "norm", None)
        if not isinstance(layers, nn.ModuleList) or not isinstance(norm, nn.Module):
            raise UserError(
                f"backbone: {self.causal_lm.config.model_type} is no Llama-like decoder (layers, norm), as "
                "MTP and sharding need; set mtp_depth to 0 and do not shard, or choose another model"
            )
        return layers, norm

    def forward(self, input_ids: Tensor, position_ids: Tensor, with_mtp: bool = False) -> HiddenStates:
        """Hidden states of packed rows.

        Args:
            input_ids: [B, L].
            position_ids: [B, L], 0 at the first token of each document.
            with_mtp: Whether to run the MTP modules too.
        """
        with recorded_logits(self) as routing:
            if not with_mtp or not self.mtp:
                return HiddenStates(self._run(input_ids, position_ids), (), tuple(routing))
            main, previous, layer_arguments = self._run_watched(input_ids, position_ids)
            embeddings = self.causal_lm.get_input_embeddings()(input_ids)
            outputs = []
            for k, module in enumerate(self.mtp, start=1):
                future = future_embeddings(embeddings, position_ids, k)
                previous, output = module(previous, future, layer_arguments)
                outputs.append(output)
        return HiddenStates(main, tuple(outputs), tuple(routing))

    def _run(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        base = self.causal_lm.base_model
        return base(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state

    def _run_watched(self, input_ids: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Run, and note what enters the final norm and what the last layer gets beside its hidden state."""
        layers, norm = self.decoder()
        inputs: list[Tensor] = []
        layer_arguments: dict[str, Any] = {}
        watches = [
            norm.register_forward_pre_hook(lambda _, args: inputs.append(args[0])),
            layers[-1].register_forward_pre_hook(
                lambda _, __, kwargs: layer_arguments.update(kwargs), with_kwargs=True
            ),
        ]
        try:
            main = self._run(input_ids, position_ids)
        finally:
            for watch in watches:
                watch.remove()
        return main, inputs[0], layer_arguments

    @property
    def head_weight(self) -> Tensor:
        """The output head [V, H], shared by the MTP modules."""
        return output_weight(self.causal_lm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., H]; give only the positions that are needed."""
        return nn.functional.linear(hidden, self.head_weight)

    def named_weights(self, include_mtp: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Full, detached tensors under Hugging Face names, `lm_head.weight` included even where it is tied.

        Adapters are merged into what is handed out, and into nothing else. Experts come one by one, as in
        checkpoints; those of MTP modules stay packed, as they are stored.

        A collective where the weights are sharded: every rank must exhaust it.

        Args:
            include_mtp: Whether to add the MTP modules, under the names of `katlit.model.mtp.stored_name`.
        """
        weights = whole_tensors(self.causal_lm.state_dict(keep_vars=True).items())
        if self.lora is not None:
            weights = merged_weights(weights, self.lora, self._trained_rows)
        yield from unpacked(weights)
        if include_mtp:
            modules = self.mtp.state_dict(keep_vars=True)
            yield from whole_tensors((stored_name(name), weight) for name, weight in modules.items())

    def export(
        self,
        directory: str | Path,
        sampling: TokenSampling = _SAMPLING,
        stage: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a Hugging Face directory, see `katlit.model.export`; every rank must call it.

        Args:
            directory: Where to. A model directory of that name is replaced.
            sampling: How whoever serves the model samples by default.
            stage: What the model card tells of the training that ends here; None: nothing.

        Raises:
            UserError: where the directory holds something else than a model.
        """
        rank_zero = is_rank_zero()
        # Tensors are gathered on all ranks, kept on the first; a tied head is written once, as the embedding.
        weights = {n: w.cpu() for n, w in self.named_weights(include_mtp=True) if rank_zero}
        if heads_are_tied(self.causal_lm):
            weights.pop("lm_head.weight", None)
        mtp = {name: weights.pop(name) for name in list(weights) if name.startswith(MTP_PREFIX)}
        if rank_zero:
            record = with_stage(self._record, stage)
            write_directory(directory, self.causal_lm, weights, mtp, self.protocol, sampling, record)
        if dist.is_initialized():
            dist.barrier()

    def export_adapters(self, directory: str | Path) -> None:
        """Write the adapters in peft's format, with the tokenizer; every rank must call it.

        They belong to `init_from` or, in a first stage, to `model` with its tables grown to the tokenizer's
        length (`resize_token_embeddings`). MTP modules are not part of it.

        Raises:
            UserError: where the directory holds something else than adapters.
        """
        write_adapters(directory, self.causal_lm, self.init_from or self.model, self.protocol)
