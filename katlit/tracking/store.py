"""How MLflow is opened: the server or the database, and a run in it.

MLflow is imported inside functions; its start takes 1.5 s, and 2 s more where a sqlite file is new.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from katlit.errors import UserError
from katlit.output import require_writable
from katlit.tracking.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Read by MLflow when it is imported: no usage reports to third parties, no bars and no chatter in the log.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# A server that hangs: MLflow would wait 120 seconds, eight times. The outbox tries again anyway.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

PROBE_SECONDS = 5.0
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
        UserError: naming the URI, where the folder of the file cannot be written.
    """
    if uri.startswith(SQLITE):
        require_writable(Path(uri.removeprefix(SQLITE)).parent, URI_KEY)
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


@contextmanager
def refusals(uri: str) -> Iterator[None]:
    """What MLflow refuses, as a UserError, and that it does not answer, as a TrackerDownError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        kind = UserError if error.error_code in REFUSALS else TrackerDownError
        raise kind(f"MLflow at {redact(uri)}: {redact(str(error))}") from error


def client_of(uri: str) -> "MlflowClient":
    """MLflow's client; it opens a sqlite file, and creates it if need be."""
    from mlflow import MlflowClient

    return MlflowClient(uri)


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
        client: Of MLflow.
        uri: Where it is.
        experiment: Name of the experiment.
        name: Of the run; MLflow invents one for None.
        tags: Of the run.
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
