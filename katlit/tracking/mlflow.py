"""MLflow: the logger of the trainer.

The trainer waits for MLflow only where the run is created. All else goes through an outbox.

MLflow is imported inside functions; its start takes 1.5 s, and 2 s more where a sqlite file is new.
"""

import logging
import os
import time
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from katlit.errors import UserError
from katlit.output import require_writable
from katlit.tracking.delivery import deliver, shortened
from katlit.tracking.outbox import SUFFIX, Outbox
from katlit.tracking.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

# Read by MLflow when it is imported: no usage reports to third parties, no bars and no chatter in the log.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# A server that hangs: MLflow would wait 120 seconds, eight times. The outbox tries again anyway.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

PARENT_RUN_VARIABLE = "KATLIT_PARENT_RUN_ID"
PROBE_SECONDS = 5.0

_URI_KEY = "logger.init_args.tracking_uri"
_SQLITE = "sqlite:///"
_KIND = "mlflow.experimentKind"  # without it MLflow's pages take a run for one of an agent
# MLflow sorts charts by name: these come first, as "a glance", in this order.
_GLANCE = {
    "rollout/reward": "a glance/1 reward",
    "rollout/accuracy": "a glance/2 accuracy",
    "rollout/think_rate": "a glance/3 think rate",
    "rollout/mean_tokens": "a glance/4 tokens",
}
_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}  # Lightning's words, MLflow's


def default_tracking_uri(save_dir: str | Path) -> str:
    """`MLFLOW_TRACKING_URI`, or else a sqlite file in `save_dir`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{Path(save_dir).resolve()}/mlflow.db"


def check_tracking(uri: str) -> None:
    """Find out within seconds whether results can be tracked; MLflow by itself retries for minutes.

    Args:
        uri: Address of an MLflow server (http, https) or of a sqlite file; other stores are taken on trust.

    Raises:
        UserError: naming the URI, where no server answers or the folder of the file cannot be written.
    """
    if uri.startswith(_SQLITE):
        require_writable(Path(uri.removeprefix(_SQLITE)).parent, _URI_KEY)
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    probe = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/health"
    try:
        with urllib.request.urlopen(probe, timeout=PROBE_SECONDS):  # noqa: S310 (the scheme is checked above)
            pass
    except urllib.error.HTTPError as answer:
        answer.close()  # a proxy may hide /health behind a login, but somebody is there
    except OSError as error:
        raise UserError(
            f"MLflow server {redact(uri)} cannot be reached ({error}); start it, or mend "
            f"MLFLOW_TRACKING_URI or {_URI_KEY} (a sqlite:///file.db needs no server)"
        ) from error


@contextmanager
def refusals(uri: str) -> Iterator[None]:
    """What MLflow refuses to open or to create, as a UserError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise UserError(f"MLflow at {redact(uri)}: {error}") from error


def client_of(uri: str) -> "MlflowClient":
    """MLflow's client; it opens a sqlite file, and creates it if need be."""
    from mlflow import MlflowClient

    return MlflowClient(uri)


def create_run(
    client: "MlflowClient", uri: str, experiment: str, name: str | None, tags: Mapping[str, str]
) -> str:
    """Id of a new run; a new experiment is created too, its artifacts beside a sqlite file."""
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        experiment_id = found.experiment_id
    elif uri.startswith(_SQLITE):
        folder = Path(uri.removeprefix(_SQLITE)).resolve().parent / "mlartifacts"
        experiment_id = client.create_experiment(experiment, folder.as_uri())
    else:
        experiment_id = client.create_experiment(experiment)
    if found is None or _KIND not in found.tags:  # else it is as its owner wants it
        client.set_experiment_tag(experiment_id, _KIND, "custom_model_development")
    return client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id


class KatMLFlowLogger(Logger):
    """Tracks a run in MLflow: an sqlite file by default, any server by its URI.

    Reward, accuracy, think rate and tokens of stage 3 are logged once more as `a glance/…`, so that MLflow,
    which sorts charts by name, shows them first.

    Lightning's own logger opens its database in the constructor (on every rank), defaults to a file store
    that MLflow 3 refuses, and cuts parameters silently; this one touches nothing until the run starts.

    A server that dies or hangs, or a locked database, stops no training: what is logged waits in a file
    `mlflow-<run>-….unsent.jsonl` in the folder of the database, or in `save_dir`, and is sent by a thread.
    What is left at the end is said, and the next run with that folder sends it.

    Args:
        experiment_name: MLflow experiment, created where it does not exist.
        run_name: Name of the run; MLflow invents one by default.
        tracking_uri: `sqlite:///file.db`, or a server's `http(s)://`. By default the variable
            `MLFLOW_TRACKING_URI`, or else `mlflow.db` in `save_dir`.
        save_dir: Folder of the default database.
        parent_run_id: Run to hang under; the variable `KATLIT_PARENT_RUN_ID` by default.
        run_id: An earlier run to go on with, when training resumes from a checkpoint.
    """

    def __init__(
        self,
        experiment_name: str = "katlit",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        save_dir: str = "outputs",
        parent_run_id: str | None = None,
        run_id: str | None = None,
    ) -> None:
        super().__init__()
        self.tracking_uri = tracking_uri or default_tracking_uri(save_dir)
        self._experiment_name = experiment_name
        self._run_name = run_name
        self._save_dir = save_dir
        self._parent_run_id = parent_run_id or os.environ.get(PARENT_RUN_VARIABLE)
        self._run_id = run_id
        self._client: MlflowClient | None = None
        self._outbox: Outbox | None = None

    def check(self) -> None:
        """Raise a UserError at once where the run could not be tracked; see `check_tracking`."""
        check_tracking(self.tracking_uri)
        require_writable(self._folder(), "logger.init_args.save_dir")

    def _folder(self) -> Path:
        local = self.tracking_uri.startswith(_SQLITE)
        return Path(self.tracking_uri.removeprefix(_SQLITE)).parent if local else Path(self._save_dir)

    @property
    @rank_zero_experiment
    def experiment(self) -> "MlflowClient":
        """MLflow's client, with the run created; on other ranks than 0 an object that does nothing."""
        if self._client is None:
            with refusals(self.tracking_uri):
                client = client_of(self.tracking_uri)
                if self._run_id is None:
                    self._run_id = self._new_run(client)
                else:
                    client.update_run(self._run_id, status="RUNNING")
            self._client = client
        return self._client

    def _new_run(self, client: "MlflowClient") -> str:
        tags = {"mlflow.parentRunId": self._parent_run_id} if self._parent_run_id else {}
        return create_run(client, self.tracking_uri, self._experiment_name, self._run_name, tags)

    @property
    def run_id(self) -> str | None:
        """Id of the run, created by asking; None on other ranks than 0."""
        _ = self.experiment
        return self._run_id

    @property
    @override
    def name(self) -> str:
        return self._experiment_name

    @property
    @override
    def version(self) -> str | None:
        return self.run_id

    @property
    @override
    def save_dir(self) -> str:
        return self._save_dir

    @rank_zero_only
    def _put(self, kind: str, **content: Any) -> None:
        """Have an entry sent, now or later."""
        client, run = self.experiment, self.run_id
        if self._outbox is None:
            folder = self._folder()
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"mlflow-{run}-{uuid4().hex[:8]}{SUFFIX}"
            self._outbox = Outbox(file, partial(deliver, client))
        self._outbox.put({"kind": kind, "run": run} | content)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log flat settings; a value longer than MLflow takes is shortened visibly."""
        settings = vars(params) if isinstance(params, Namespace) else params
        self._put("parameters", values={str(key): shortened(str(value)) for key, value in settings.items()})

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {key: float(value) for key, value in metrics.items()}
        values |= {_GLANCE[key]: value for key, value in values.items() if key in _GLANCE}
        self._put("metrics", metrics=values, time=int(time.time() * 1000), step=step or 0)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._put("tags", values=dict(tags))

    def log_data(self, name: str, digest: str, source_type: str, source: str) -> None:
        """Name what the run is trained on."""
        self._put("data", name=name, digest=digest, source_type=source_type, source=source)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a file as an artifact, in a folder of them; it is read when it is sent."""
        self._put("file", path=str(path.absolute()), folder=folder)

    def log_folder(self, path: Path, folder: str) -> None:
        """Keep the content of a folder as artifacts; it is read when it is sent."""
        self._put("folder", path=str(path.absolute()), folder=folder)

    def log_table(self, rows: Mapping[str, list[Any]], file: str) -> None:
        """Append rows, given by columns, to a table among the artifacts."""
        self._put("table", rows=dict(rows), file=file)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._client is None:
            return
        self._put("end", status=_STATUS[status])
        outbox, self._outbox = self._outbox, None
        left = None if outbox is None else outbox.close()
        if outbox is not None and left is not None:
            logger.warning(
                "MLflow at %s: %s; they are kept in %s, and the next run that tracks there sends them",
                redact(self.tracking_uri),
                left,
                outbox.path,
            )


def mlflow_loggers(loggers: Sequence[Logger]) -> list[KatMLFlowLogger]:
    """Loggers of a trainer that write to MLflow."""
    return [logger for logger in loggers if isinstance(logger, KatMLFlowLogger)]
