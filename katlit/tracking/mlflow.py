"""MLflow: the logger of the trainer.

The trainer waits for MLflow only where the run is created. All else goes through an outbox.
"""

import logging
import os
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from katlit.errors import first_line
from katlit.output import require_writable
from katlit.tracking.delivery import LATER, Delivery, fingerprint, shortened
from katlit.tracking.outbox import SUFFIX, Outbox
from katlit.tracking.redaction import redact
from katlit.tracking.store import SQLITE, TrackerDownError, check_tracking, client_of, create_run, refusals

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

PARENT_RUN_VARIABLE = "KATLIT_PARENT_RUN_ID"
PATIENCE = 30.0  # seconds that a run waits at its end while nothing is sent

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
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{Path(save_dir).resolve()}/mlflow.db"


class KatMLFlowLogger(Logger):
    """Tracks a run in MLflow: an sqlite file by default, any server by its URI.

    Reward, accuracy, think rate and tokens of stage 3 are logged once more as `a glance/…`, so that MLflow,
    which sorts charts by name, shows them first.

    Lightning's own logger opens its database in the constructor (on every rank), defaults to a file store
    that MLflow 3 refuses, and cuts parameters silently; this one touches nothing until the run starts.

    A server that dies or hangs, or a locked database, stops no training: what is logged waits in a file
    `mlflow-….unsent.jsonl` in the folder of the database, or in `save_dir`, and is sent by a thread.
    What is left at the end is said, and the next run with that folder sends it. A run that goes on, or is
    below a parent run, is even created later where MLflow cannot be reached; any other is refused.

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
        self._started = self._may_wait = False
        self._down = ""  # why MLflow was not there at the start; told already
        self._outbox: Outbox | None = None

    def check(self, *, goes_on: bool = False) -> None:
        """Raise a UserError at once where the run could not be tracked; see `check_tracking`.

        Args:
            goes_on: Earlier work is gone on with. For such a run, and for one below a parent run, a server
                that cannot be reached is no reason to stop: it is told, and what is logged is sent later.
        """
        self._may_wait = goes_on or self._parent_run_id is not None
        try:
            check_tracking(self.tracking_uri)
        except TrackerDownError as error:
            self._wait_for(error)
        require_writable(self._folder(), "logger.init_args.save_dir")

    def _wait_for(self, error: TrackerDownError) -> None:
        """Go on without MLflow, and say so, or raise the error."""
        if not self._may_wait:
            raise error
        self._down = first_line(error)
        if rank_zero_only.rank == 0:
            text = "%s; the run goes on, what it logs waits in %s/*%s and is sent when MLflow is there"
            logger.warning(text, self._down, self._folder(), SUFFIX)

    def _folder(self) -> Path:
        local = self.tracking_uri.startswith(SQLITE)
        return Path(self.tracking_uri.removeprefix(SQLITE)).parent if local else Path(self._save_dir)

    def _store(self) -> str:
        """Tells the entries of one MLflow from those of another that wait in the same folder."""
        uri = self.tracking_uri
        name = Path(uri).name if uri.startswith(SQLITE) else redact(uri).rstrip("/")
        return sha256(name.encode()).hexdigest()[:8]

    @property
    @rank_zero_experiment
    def experiment(self) -> "MlflowClient | None":
        """MLflow's client, with the run created; None where that is to be done later.

        On other ranks than 0 it is an object that does nothing.
        """
        if not self._started:
            self._start()
        return self._client

    def _start(self) -> None:
        """Create the run, or go on with it; where MLflow cannot be reached, have that done later."""
        try:
            if not self._down:
                with refusals(self.tracking_uri):
                    self._client = self._opened()
        except TrackerDownError as error:
            self._wait_for(error)
        self._started = True
        if self._run_id is None:
            self._run_id = f"{LATER}{uuid4().hex}"
            local = self.tracking_uri if self.tracking_uri.startswith(SQLITE) else ""  # no password on disk
            new = {"experiment": self._experiment_name, "name": self._run_name, "tags": self._tags()}
            self._put("create", uri=local, start=int(time.time() * 1000), **new)

    def _opened(self) -> "MlflowClient":
        client = client_of(self.tracking_uri)
        if self._run_id is not None:
            client.update_run(self._run_id, status="RUNNING")
            return client
        tags = self._tags()
        self._run_id = create_run(client, self.tracking_uri, self._experiment_name, self._run_name, tags)
        return client

    def _tags(self) -> dict[str, str]:
        return {"mlflow.parentRunId": self._parent_run_id} if self._parent_run_id else {}

    @property
    def run_id(self) -> str | None:
        """Id of the run, created by asking, or a name until that can be done; None on other ranks than 0."""
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
        run = self.run_id
        if self._outbox is None:
            store = f"mlflow-{self._store()}-"
            file = self._folder() / f"{store}{run}-{uuid4().hex[:8]}{SUFFIX}"
            send = Delivery(self.tracking_uri, self._client)
            self._outbox = Outbox(file, send, PATIENCE, self._down, store)
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
        """Keep a file as an artifact, in a folder of them; read when it is sent, if it is the same then."""
        self._put("file", path=str(path.absolute()), folder=folder, files=fingerprint(path))

    def log_folder(self, path: Path, folder: str) -> None:
        """Keep the content of a folder as artifacts; see `log_file`."""
        self._put("folder", path=str(path.absolute()), folder=folder, files=fingerprint(path))

    def log_table(self, rows: Mapping[str, list[Any]], file: str) -> None:
        """Append rows, given by columns, to a table among the artifacts."""
        self._put("table", rows=dict(rows), file=file)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        if not self._started:
            return
        self._put("end", status=_STATUS[status])
        outbox, self._outbox = self._outbox, None
        left = None if outbox is None else outbox.close()
        if outbox is not None and left is not None:
            logger.warning(
                "MLflow at %s: %s; they are kept in %s, and the next run that tracks there tries again",
                redact(self.tracking_uri),
                left,
                outbox.path,
            )


def mlflow_loggers(loggers: Sequence[Logger]) -> list[KatMLFlowLogger]:
    """Loggers of a trainer that write to MLflow."""
    return [logger for logger in loggers if isinstance(logger, KatMLFlowLogger)]
