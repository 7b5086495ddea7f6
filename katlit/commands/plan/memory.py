"""The memory of a training run on one device: what lasts, and the larger of a step and an update."""

from collections.abc import Sequence
from dataclasses import dataclass

from katlit.commands.plan import activations, logits
from katlit.commands.plan.activations import Batch
from katlit.commands.plan.precision import BYTES, Precision
from katlit.commands.plan.states import Split, companions, states
from katlit.model.frozen import Placement
from katlit.model.shape import Adapters, Shape
from katlit.stage.needs import Loss

# Resident in a process on the CPU before there are weights, as measured: torch, Lightning, transformers.
LIBRARIES = 700 * 2**20


@dataclass(frozen=True)
class Job:
    """A run, as far as its memory is concerned.

    Attributes:
        shape: Shape of the model that is trained.
        losses: One entry for each time that logits are made.
        trains_mtp: Whether the MTP modules run and have gradients.
        companions: Shapes of frozen models; the first are references.
        placement: Where their weights are.
        dtype: Number format of the backbone.
        companion_dtype: Number format of its companions.
        precision_word: The trainer's precision, in Lightning's words.
        precision: What the two come to under this strategy.
        batch: What one device sees at a time.
        split: Strategy and devices.
        engine: Bytes that the engine of the rollouts takes of the device.
        memory: Memory of one device, in bytes.
        engine_sleeps: Whether the engine takes them only while nothing is trained.
        only_new: Whether, of the model's own layers, only the new ones are trained, and nothing beside them.
        adapters: What LoRA trains in place of the model's own parameters; None: those are trained.
        parts: In how many parts a loss is computed.
        unknown_engine: Class of the engine, where it does not say what it takes.
        tokens_key: Setting that bounds the tokens of a forward pass.
        libraries: Bytes that the process itself takes of the device, where that is the CPU.
        references: How many of the companions are copies of the model itself.
        processes: Processes of one machine.
    """

    shape: Shape
    losses: tuple[Loss, ...]
    trains_mtp: bool
    companions: tuple[Shape, ...]
    placement: Placement
    dtype: str
    companion_dtype: str
    precision_word: str
    precision: Precision
    batch: Batch
    split: Split
    engine: int
    memory: int
    engine_sleeps: bool = False
    only_new: bool = False
    adapters: Adapters | None = None
    parts: int = 1
    unknown_engine: str | None = None
    tokens_key: str = "data.init_args.batches.batch_tokens"
    libraries: int = 0
    references: int = 0
    processes: int = 1

    @property
    def trained(self) -> int:
        """Parameters with a gradient, those of adapters left out."""
        if self.adapters is not None:
            return self.shape.mtp_parameters if self.trains_mtp else 0
        own = self.shape.new_layers * self.shape.layer if self.only_new else self.shape.parameters
        return own + (self.shape.mtp_parameters if self.trains_mtp else 0)


@dataclass(frozen=True)
class Plan:
    """Bytes on one device, by what they are for.

    `host` are those that it keeps in host memory, `loading` those that its process has there before training.
    """

    parameters: int
    gradients: int
    optimizer: int
    companions: int
    activations: int
    casts: int
    logits: int
    gathered: int
    engine: int
    update: int
    host: int
    engine_sleeps: bool
    libraries: int = 0
    start: int = 0
    loading: int = 0

    @property
    def total(self) -> int:
        """The peak: in training, or before it, when there are neither gradients nor engine."""
        return max(self.training, self.starting)

    @property
    def starting(self) -> int:
        """Before training: the weights that are whole on the device until they are split."""
        return self.libraries + self.start

    @property
    def training(self) -> int:
        """Its peak: an update begins when activations are gone; a sleeping engine wakes up after it."""
        lasting = self.libraries + self.parameters + self.gradients + self.optimizer + self.companions
        step = self.activations + self.casts + self.logits + self.gathered
        if self.engine_sleeps:
            return lasting + max(step, self.update, self.engine)
        return lasting + self.engine + max(step, self.update)


def plan(job: Job) -> Plan:
    """Count the memory of a run on one device."""
    shape, precision, batch = job.shape, job.precision, job.batch
    adapters = None if job.adapters is None else job.adapters.parameters
    state = states(shape, job.trained, precision, job.split, adapters)
    frozen = companions(job.companions, BYTES[job.companion_dtype], job.placement, job.split.devices)
    kept = activations.kept_bytes(shape, precision, batch, with_mtp=job.trains_mtp)
    if job.adapters is not None:
        kept += activations.adapter_bytes(job.adapters, shape, precision, batch)
    working = max(activations.working_bytes(model, precision, batch) for model in (shape, *job.companions))
    return Plan(
        parameters=state.parameters,
        gradients=state.gradients,
        optimizer=state.optimizer,
        companions=frozen.lasting,
        activations=kept + working,
        casts=activations.cast_bytes(shape, precision),
        logits=_logits(job),
        gathered=state.gathered + frozen.gathered,
        engine=job.engine,
        update=state.update,
        host=state.host + frozen.host,
        engine_sleeps=job.engine_sleeps,
        libraries=job.libraries,
        start=state.start,
        loading=_loading(job),
    )


def _loading(job: Job) -> int:
    """Weights in a process before they go to the device or are split: all models, whole, each in its type.

    A reference is copied from the model in the model's type, and cast then.
    """
    own, frozen = BYTES[job.dtype], BYTES[job.companion_dtype]
    number = [max(own, frozen)] * job.references + [frozen] * (len(job.companions) - job.references)
    companions = sum(size * model.parameters for size, model in zip(number, job.companions, strict=True))
    return job.shape.total * own + _adapters(job) * BYTES["float32"] + companions


def _adapters(job: Job) -> int:
    return 0 if job.adapters is None else job.adapters.parameters


def _logits(job: Job) -> int:
    """What all losses keep, and the most that one of them needs; every token counts as a target.

    Each part of a loss has a gradient of the head, and they are added up when all are there.
    """
    depths = 1 + (job.shape.mtp_depth if job.trains_mtp else 0)
    what = job.batch.tokens, depths, job.shape, job.precision
    compared: Sequence[Shape | None] = job.companions or (None,)
    kept = sum(max(logits.kept_bytes(loss, *what, model) for model in compared) for loss in job.losses)
    heads = (job.parts - 1) * job.shape.embedding * job.precision.weights
    needed = max(logits.working_bytes(loss, *what, model) for model in compared for loss in job.losses)
    return kept + heads + needed
