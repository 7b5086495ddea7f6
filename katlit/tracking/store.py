"""How MLflow is opened: the server or the database, and a run in it.

MLflow is imported inside functions; its start takes 1.5 s, and 2 s more where a sqlite file is new.
"""

import fcntl
import logging
import os
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from katlit.errors import UserError, first_line
from katlit.output import require_writable
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

PROBE_SECONDS = 5.0
LOCK_SECONDS = 60.0
SQLITE = "sqlite:///"
URI_KEY = "logger.init_args.tracking_uri"

# What MLflow says where a request is wrong; anything else may be otherwise in a minute.
REFUSALS = {
    "INVALID_PARAMETER_VALUE", "INVALID_STATE", "PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}  # fmt: skip
_KIND = "mlflow.experimentKind"  # without it MLflow's pages take a run for one of an agent


class TrackerDownError(UserError):
    """MLflow cannot be reached now; it may be otherwise in a minute."""


def check_tracking(uri: str) -> None:
    """Find out within seconds whether results can be tracked; MLflow by itself retries for minutes.

    Args:
        uri: Address of an MLflow server (http, https) or of a sqlite file; other stores are taken on trust.

    Raises:
        TrackerDownError: naming the URI, where no server answers.
        UserError: naming the URI, where the file is damaged, or its folder cannot be written.
    """
    if uri.startswith(SQLITE):
        file = Path(uri.removeprefix(SQLITE))
        require_writable(file.parent, URI_KEY)
        with suppress(TrackerDownError):  # a lock is waited for where the file is opened
            check_database(file)
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
        raise TrackerDownError(
            f"MLflow server {redact(uri)} cannot be reached ({error}); start it, or mend "
            f"MLFLOW_TRACKING_URI or {URI_KEY} (a sqlite:///file.db needs no server)"
        ) from error


def check_database(file: Path, *, patience: float = 0.0) -> None:
    """Find out whether an sqlite file can be written, waiting while another process locks it.

    MLflow by itself waits for half a minute and then fails in the middle of its own code.

    Args:
        file: Need not be there.
        patience: How many seconds a lock is waited for; this is told.

    Raises:
        TrackerDownError: where it is still locked then.
        UserError: where it is damaged or cannot be written.
    """
    deadline, told = time.monotonic() + patience, False
    while file.exists() and (error := _fault(file)) is not None:
        if not _is_lock(error):
            raise UserError(_told(file, error)) from error
        if time.monotonic() >= deadline:
            raise TrackerDownError(_told(file, error)) from error
        if not told:
            logger.warning("MLflow's database %s is locked; waiting for up to %.0f seconds", file, patience)
            told = True
        time.sleep(0.2)


def _fault(file: Path) -> sqlite3.Error | None:
    """What happens when a database is read and about to be written."""
    try:
        with closing(sqlite3.connect(file, timeout=0.2, isolation_level=None)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.Error as error:
        return error
    return None


def _is_lock(error: BaseException | None) -> bool:
    return "database is locked" in str(error) or "database table is locked" in str(error)


def _told(file: Path, error: BaseException) -> str:
    """The one line on a database."""
    if _is_lock(error):
        mend = "another process holds it; wait for that, or end it"
    elif "readonly" in str(error) or "unable to open" in str(error):
        mend = "have it writable"
    elif "full" in str(error) or "I/O" in str(error):
        mend = "make room on that disk, or mend it"
    else:
        mend = "move it away (a new one is made), or put a copy of before in its place"
    return f"MLflow's database {file}: {str(error).splitlines()[0]}; {mend}, or name another by {URI_KEY}"


def _refusal(uri: str, error: BaseException) -> UserError:
    """What a database says, as MLflow's own checks would say it."""
    if not uri.startswith(SQLITE):
        return TrackerDownError(f"MLflow at {redact(uri)}: {redact(str(error).strip().splitlines()[0])}")
    kind = TrackerDownError if _is_lock(error) else UserError
    return kind(_told(Path(uri.removeprefix(SQLITE)), error))


@contextmanager
def refusals(uri: str) -> Iterator[None]:
    """What MLflow refuses, as a UserError, and that it does not answer, as a TrackerDownError."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        kind = UserError if error.error_code in REFUSALS else TrackerDownError
        raise kind(f"MLflow at {redact(uri)}: {redact(first_line(error))}") from error
    except DBAPIError as error:
        raise _refusal(uri, error.orig or error) from error
    except (SQLAlchemyError, CommandError) as error:
        raise UserError(f"MLflow at {redact(uri)}: {redact(first_line(error))}") from error


def client_of(uri: str, patience: float | None = None) -> "MlflowClient":
    """MLflow's client; it opens a sqlite file, and creates it if need be.

    Args:
        uri: Where MLflow is.
        patience: How many seconds a locked database is waited for; `LOCK_SECONDS` by default.

    Raises:
        UserError: where the database is locked, damaged, or cannot be written.
    """
    from mlflow import MlflowClient

    if not uri.startswith(SQLITE):
        return MlflowClient(uri)
    file, seconds = Path(uri.removeprefix(SQLITE)), LOCK_SECONDS if patience is None else patience
    with _alone(file, seconds):
        check_database(file, patience=seconds)
        return MlflowClient(uri)


@contextmanager
def _alone(file: Path, patience: float) -> Iterator[None]:
    """Let no other run open, or create, the same database: MLflow fails where two create its tables.

    Args:
        file: The database; a hidden file beside it is locked, and stays.
        patience: How many seconds another run is waited for.
    """
    deadline = time.monotonic() + patience
    with _lock_file(file) as lock:
        while not _is_held(lock):
            if time.monotonic() >= deadline:
                raise TrackerDownError(
                    _told(file, BlockingIOError("database is locked by a run that opens it"))
                )
            time.sleep(0.1)
        yield


def _lock_file(file: Path) -> FileIO:
    """The file that is locked; to be read only, so that other users of the database may lock it, too."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return FileIO(os.open(file.with_name(f".{file.name}.lock"), os.O_RDONLY | os.O_CREAT, 0o666))
    except OSError as error:  # such as a full disk
        raise TrackerDownError(
            f"MLflow's database {file}: {error.strerror}; name another by {URI_KEY}"
        ) from error


def _is_held(lock: FileIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def create_run(
    client: "MlflowClient",
    uri: str,
    experiment: str,
    name: str | None,
    tags: Mapping[str, str],
    start: int | None = None,
) -> str:
    """Id of a new run; a new experiment is created too, its artifacts beside a sqlite file.

    Args:
        client: MLflow's client.
        uri: Where it is.
        experiment: Name of the experiment.
        name: The run's name; MLflow invents one for None.
        tags: The run's tags.
        start: Milliseconds since 1970; now by default.
    """
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        experiment_id = found.experiment_id
    elif uri.startswith(SQLITE):
        folder = Path(uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts"
        experiment_id = client.create_experiment(experiment, folder.as_uri())
    else:
        experiment_id = client.create_experiment(experiment)
    if found is None or _KIND not in found.tags:  # else it is as its owner wants it
        client.set_experiment_tag(experiment_id, _KIND, "custom_model_development")
    return client.create_run(experiment_id, start_time=start, run_name=name, tags=dict(tags)).info.run_id
