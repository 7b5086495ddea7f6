"""The Lightning side of the command line: the trainer with its extra command, and LightningCLI for it."""

import logging
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException
from typing_extensions import override

from katlit.callbacks.checkpoint import StepCheckpoint, newest_checkpoint
from katlit.callbacks.checkpoint_files import damage
from katlit.callbacks.few_threads import FewThreads
from katlit.callbacks.finite import StopWhereNotFinite
from katlit.callbacks.metrics_file import MetricsFile
from katlit.callbacks.model_size import in_one_line
from katlit.callbacks.optimizer_log import OptimizerLog
from katlit.callbacks.rounding import WarnWhereRounded
from katlit.callbacks.track_config import TrackConfig
from katlit.commands import mistakes, named_callbacks, quiet
from katlit.commands.parser_mistakes import of_parser, require_known, require_null
from katlit.commands.settings_files import with_paths
from katlit.commands.short_results import ShortResults
from katlit.errors import UserError
from katlit.output import require_writable
from katlit.parallel.meeting import Meeting, named_devices, take_devices
from katlit.tracking.mlflow import mlflow_loggers

# `${trainer.max_steps}` in any file then means the last value, that of later files and the command line.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


# Callbacks of every run.
ALWAYS = (FewThreads, StopWhereNotFinite, WarnWhereRounded, OptimizerLog, MetricsFile, ShortResults)


class KatTrainer(Trainer):
    """Lightning's Trainer with `label`, which builds the data and trains nothing."""

    named_devices: list[int] | None = None  # which devices of a machine the settings name

    def label(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        """Build the data of a stage: sample, verify, vote, and write the cache that fit reads.

        Takes the settings of `fit` as they are, so the cache has the very key that `fit` will look up. Data
        that have a `label_share` are labelled by all processes of the strategy.

        Args:
            model: Unused; present because the settings are those of `fit`.
            datamodule: Its `prepare_data` is run, in one process, when all have labelled their shares.
        """
        del model
        datamodule.trainer = self
        if self.world_size > 1 and _labels(datamodule):
            _launched(self.strategy, partial(_label_together, self, datamodule))
        elif self.is_global_zero:
            take_devices(0, 1, self.named_devices)
            datamodule.prepare_data()


def _labels(datamodule: LightningDataModule | None) -> bool:
    """Whether the data are of a stage that labels."""
    return hasattr(datamodule, "label_share")


def _launched(strategy: Any, work: Callable[[], None]) -> None:
    """Do some work in all processes of a strategy, starting them unless something else has."""
    if strategy.launcher is None:
        work()
        return
    try:
        strategy.launcher.launch(work)
    except BaseException:
        strategy.launcher.kill(signal.SIGTERM)
        raise


def _label_together(trainer: KatTrainer, datamodule: Any) -> None:
    """What each process does; where one fails, none waits for it."""
    environment: Any = trainer.strategy.cluster_environment
    meeting = Meeting(environment, trainer.global_rank, trainer.world_size)
    try:
        _label_share(trainer, datamodule, meeting)
    except BaseException:
        meeting.fail()
        raise


def _label_share(trainer: KatTrainer, datamodule: Any, meeting: Meeting) -> None:
    """Reply to a share of the prompts; the first process then makes the records."""
    if (folder := datamodule.shared_folder()) is not None:
        meeting.require_shared(folder, "data.cache_dir")
    take_devices(trainer.local_rank, trainer.num_devices, trainer.named_devices)
    if trainer.is_global_zero:
        datamodule.settle_models()
        meeting.arrive("settled")
    else:
        logging.getLogger("katlit").setLevel(logging.WARNING)
    meeting.wait("settled", 1)
    datamodule.survey_share(trainer.global_rank, trainer.world_size)
    meeting.arrive("surveyed")
    meeting.wait("surveyed")
    datamodule.label_share(trainer.global_rank, trainer.world_size)
    meeting.arrive("labelled")
    if trainer.is_global_zero:
        meeting.wait("labelled")
        datamodule.prepare_data()
        meeting.arrive("made")
        meeting.wait("left", trainer.world_size - 1)  # the store is this process's
    else:
        meeting.wait("made", 1)
        meeting.arrive("left")


class KatCLI(LightningCLI):
    """LightningCLI over composed YAML files; the YAML, never a checkpoint, is the source of truth."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._given: str = kwargs["args"][0]
        super().__init__(*args, **kwargs)

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        """Those of Lightning and `label`, with the arguments that settings do not give; `-v` is `verbose`."""
        offered = LightningCLI.subcommands() | {"label": {"model", "datamodule"}}
        return {name: {*left_out, "verbose"} for name, left_out in offered.items()}

    @override
    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        return super().init_parser(parser_mode="omegaconf+", exit_on_error=False, **kwargs)

    @override
    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        """That of the given command; of the others, which take as long each, an empty one."""
        if subcommand != self._given:
            return self.init_parser(**kwargs)
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """`checkpoint` is a section of its own, and `callbacks` changes those of the list by name."""
        parser.add_lightning_class_args(StepCheckpoint, "checkpoint")
        parser.add_argument(
            f"--{named_callbacks.SECTION}", type=dict[str, Any], default={}, help="by name; empty when read"
        )

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Upstream warns whenever a list is given; `katlit.cli.main` always gives one.
        args, changes = named_callbacks.split(args)
        try:
            self.config = parser.parse_args(self._with_callbacks(parser, args, changes))
        except ArgumentError as error:
            keys = self._parser(args[0]).get_defaults().keys() if args[0] in self.subcommands() else ()
            raise of_parser(str(error), args, set(keys)) from error
        settings = self.config[self.config.subcommand].as_dict()
        require_null(settings, args)
        require_known(settings, args)

    def _with_callbacks(
        self, parser: LightningArgumentParser, args: list[str], changes: dict[str, Any]
    ) -> list[str]:
        """The command line with the list of callbacks as the changes make it."""
        if not changes:
            return args
        unprinted = [word for word in args if not word.startswith("--print_config")]
        settings = parser.parse_args(unprinted)[args[0]].as_dict()
        return [*args, named_callbacks.changed(settings, changes), f"--{named_callbacks.SECTION}={{}}"]

    @override
    def instantiate_classes(self) -> None:
        """Build model, data and trainer; what a constructor refuses is a mistake in the settings."""
        refusal, settings = mistakes.watch(), self.config[self.subcommand].as_dict()
        try:
            self.build()
        except Exception as error:
            told = refusal.explain(settings) if refusal.error is not None else None
            if told is None:
                raise
            raise told from error

    def build(self) -> None:
        """Build what the command needs."""
        super().instantiate_classes()

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config[self.subcommand].trainer.as_dict()
        mistakes.check_trainer(settings)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise mistakes.of_trainer(error, settings) from error
        if isinstance(trainer, KatTrainer):
            trainer.named_devices = named_devices(settings["devices"])
        if not (quiet.is_verbose() or "ModelSummary'" in str(settings.get("callbacks"))):  # one's own stays
            trainer.callbacks = [in_one_line(callback) for callback in trainer.callbacks]
        # What it logs of a step is there when the callbacks of the settings look at that step.
        trainer.callbacks.sort(key=lambda callback: not isinstance(callback, OptimizerLog))
        return trainer

    @override
    def _parse_ckpt_path(self) -> None:
        """Do nothing: upstream lets `hyper_parameters` of a checkpoint override YAML and command line."""

    @override
    def after_instantiate_classes(self) -> None:
        """Find out before any work, and on every rank, what to go on from and whether results can be kept."""
        self._find_checkpoint()
        if self.subcommand == "fit" and self.trainer.world_size > 1 and _labels(self.datamodule):
            self.datamodule.require_labels()
        require_writable(self.trainer.default_root_dir, "trainer.default_root_dir")
        if self.subcommand != "label":  # which logs nothing
            self._check_tracking()

    def _check_tracking(self) -> None:
        """Find out whether MLflow is there; a run that goes on does so without it, too."""
        goes_on = self.subcommand == "fit" and self.config_init["fit"].get("ckpt_path") is not None
        for logger in mlflow_loggers(self.trainer.loggers):
            logger.check(goes_on=goes_on)

    def _find_checkpoint(self) -> None:
        """Put the newest checkpoint in the place of `last` or `auto`; refuse a path where nothing is."""
        settings = self.config_init[self.subcommand]
        path = settings.get("ckpt_path")
        if path in ("last", "auto"):
            newest = newest_checkpoint(self.trainer, required=path == "last")
            settings["ckpt_path"] = None if newest is None else str(newest)
        elif path is not None and "://" not in str(path) and not Path(path).exists():
            raise UserError(
                f"ckpt_path: {str(path)!r} does not exist; give a checkpoint, last (the newest), or auto "
                "(the newest, if any)"
            )
        elif path is not None and "://" not in str(path) and (why := damage(Path(path))) is not None:
            raise UserError(f"ckpt_path: {str(path)!r} is damaged ({why}); give the one before, or last")


def run(
    arguments: Sequence[str], cli: type[KatCLI] = KatCLI, trainer_class: type[KatTrainer] = KatTrainer
) -> KatCLI:
    """Run one of the trainer's commands.

    Args:
        arguments: The command and its options.
        cli: What parses and runs them.
        trainer_class: Has a method for each command.

    Returns:
        The command line, when its command is done.

    Raises:
        UserError: for a wrong key, value or file in the settings, naming it.
    """
    arguments = with_paths(arguments)
    quiet.set_up_logging()
    try:
        return cli(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=trainer_class,
            trainer_defaults={"callbacks": [callback() for callback in ALWAYS]},
            save_config_callback=TrackConfig,
            save_config_kwargs={"save_to_log_dir": False},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=arguments,
        )
    except OmegaConfBaseException as error:
        raise mistakes.of_interpolation(error, arguments[0]) from error
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
