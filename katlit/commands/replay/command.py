"""`katlit replay`: a rollout of a run, followed from its prompt to its advantage, and sampled once more."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from jsonargparse import Namespace
from typing_extensions import override

from katlit.callbacks.rollout.sampler import RolloutSampler
from katlit.callbacks.rollout_log import RolloutLog
from katlit.commands.replay.again import sample_again
from katlit.commands.replay.group import GivesAdvantages, copies, explain, group_of
from katlit.commands.replay.view import advantage_text, again_text, copies_text, reward_text, rollout_text
from katlit.commands.replay.weights import model_directory, source_of
from katlit.commands.trainer import KatCLI, run
from katlit.engines.vllm.server.engine import VLLMServer
from katlit.errors import UserError
from katlit.rollout.record import RolloutRecord
from katlit.rollout.record_files import read_records
from katlit.stage.module import KatModule


class Address(NamedTuple):
    """What names a rollout of a run."""

    step: int
    prompt_id: str
    number: int


class ReplayCLI(KatCLI):
    """Reads the settings of a run as `fit` does; instantiates model and callbacks, and trains nothing."""

    @override
    def build(self) -> None:
        """Build what knows of rollouts: there is neither trainer nor data."""
        settings = self.config["fit"]
        parser = self._parser("fit")
        self.model = parser.instantiate_classes(Namespace(model=settings.model)).model
        given = Namespace(trainer=Namespace(callbacks=settings.trainer.callbacks))
        found = parser.instantiate_classes(given).trainer.callbacks or []
        self.callbacks: list[Any] = found if isinstance(found, list) else [found]
        self.checkpoints = settings.checkpoint.directory
        self.subcommand = None

    @override
    def after_instantiate_classes(self) -> None:
        """Nothing is written."""


def main(arguments: Sequence[str]) -> int:
    """Show a recorded rollout, explain its advantage, and sample it again alone.

    Only for runs that you trust: config.yaml may name any class, which is imported and called, and a split
    checkpoint can run any code as it is read.

    Args:
        arguments: What follows `katlit replay`; `--help` lists them.

    Returns:
        The exit status: 1 where it was sampled again and came out otherwise.

    Raises:
        UserError: where the run, the rollout or the weights that sampled it are not there.
    """
    summary = (
        "Show a recorded rollout of a run that you trust, explain its advantage, and sample it again alone."
    )
    parser = argparse.ArgumentParser(prog="katlit replay", description=summary)
    parser.add_argument("--run", required=True, metavar="FOLDER", help="the run's trainer.default_root_dir")
    parser.add_argument(
        "--rollout",
        required=True,
        metavar="STEP/PROMPT_ID/INDEX",
        help="optimizer steps before it, its prompt, its number among the prompt's rollouts",
    )
    parser.add_argument(
        "--copy", type=int, default=0, metavar="N", help="which one, where the step has the prompt repeatedly"
    )
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="the weights that sampled it, a checkpoint or an exported model; by default the "
        "run's checkpoint of that step, for step 0 what the run began with",
    )
    parser.add_argument("--only_show", action="store_true", help="do not sample it again")
    options = parser.parse_args(list(arguments))
    folder, address = Path(options.run), _address(options.rollout)
    cli = _settings(folder)
    records = read_records(_folder(cli, folder), address.step)
    found = copies(records, address.prompt_id, address.number)
    if not 0 <= options.copy < len(found):
        raise UserError(f"--copy: {options.copy}; of this rollout there are {len(found)}, from 0")
    record = found[options.copy]
    if len(found) > 1:
        sys.stdout.write(f"{copies_text(record, found)}\n\n")
    _show(record, records, cli)
    if options.only_show:
        return 0
    given = None if options.model is None else Path(options.model)
    return 0 if _sample(record, cli, folder, given) else 1


def _address(text: str) -> Address:
    step, _, rest = text.partition("/")
    prompt_id, _, index = rest.rpartition("/")
    if not (step.isdecimal() and prompt_id and index.isdecimal()):
        raise UserError(f"--rollout: {text!r}; give STEP/PROMPT_ID/INDEX, such as 12/gsm-1/0")
    return Address(int(step), prompt_id, int(index))


def _settings(folder: Path) -> ReplayCLI:
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"--run: no {file}; give the trainer.default_root_dir of a run of `katlit fit`")
    cli = cast(ReplayCLI, run(["fit", "-c", str(file)], ReplayCLI))
    if not isinstance(cli.model, KatModule) or not isinstance(cli.model, GivesAdvantages):
        raise UserError(f"--run: {folder} trained {type(cli.model).__name__}, which learns from no rollouts")
    return cli


def _folder(cli: ReplayCLI, run_folder: Path) -> Path:
    given = [one.directory for one in cli.callbacks if isinstance(one, RolloutLog)]
    return Path(given[0]) if given and given[0] is not None else run_folder / "rollouts"


def _show(record: RolloutRecord, records: Sequence[RolloutRecord], cli: ReplayCLI) -> None:
    group, estimator = group_of(record, records), cli.model.estimator
    parts = [
        rollout_text(record, cli.model.backbone.protocol),
        reward_text(record),
        advantage_text(record, group, explain(record, group, estimator), estimator),
    ]
    sys.stdout.write("\n\n".join(parts) + "\n")
    sys.stdout.flush()


def _sample(record: RolloutRecord, cli: ReplayCLI, folder: Path, given: Path | None) -> bool:
    """Sample the rollout again, and say how it came out; whether all tokens are the same."""
    samplers = [one for one in cli.callbacks if isinstance(one, RolloutSampler)]
    if not samplers:
        raise UserError(f"--run: {folder}/config.yaml names no katlit.callbacks.RolloutSampler")
    protocol, engine = cli.model.backbone.protocol, samplers[0].engine
    if isinstance(engine, VLLMServer) and engine.url is not None:
        raise UserError(
            f"{folder}/config.yaml: the engine joins {engine.url}, and that server would get the weights of "
            "this rollout, whoever else uses it; give --only_show, or set the engine's url there to null, so "
            "that it starts a server of its own"
        )
    step = record["policy_step"]
    checkpoints = Path(cli.checkpoints or folder / "checkpoints")
    source = source_of(step, checkpoints) if given is None else given
    with model_directory(source, cli.model.backbone) as directory:
        completion = sample_again(record, directory, engine, samplers[0].sampling, protocol)
    weights = "the weights that the run began with" if source is None else str(source)
    sys.stdout.write(f"\n{again_text(record, completion, weights, protocol)}\n")
    return completion.token_ids == record["token_ids"]
