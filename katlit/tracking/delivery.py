"""What is sent to MLflow, entry by entry."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from katlit.errors import first_line
from katlit.tracking.outbox import Entry, Refused

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_PARAMETER = 500  # characters, what MLflow servers before 2.10 take
MAX_BATCH = 100  # parameters in one request, MLflow's limit

# What MLflow says where an entry is wrong; anything else may be otherwise in a minute.
_REFUSALS = {
    "INVALID_PARAMETER_VALUE", "INVALID_STATE", "PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}  # fmt: skip


def shortened(value: str) -> str:
    """The value, or as much as MLflow takes with a visible note of what is missing."""
    if len(value) <= MAX_PARAMETER:
        return value
    note = f" … (shortened from {len(value)} characters, whole in config.yaml)"
    return value[: MAX_PARAMETER - len(note)] + note


def deliver(client: "MlflowClient", entry: Entry) -> None:
    """Send an entry.

    Raises:
        Refused: where MLflow does not want it.
        OSError: where it cannot take it now.
    """
    from mlflow.exceptions import MlflowException

    arguments = dict(entry)
    send = _SENDERS[arguments.pop("kind")]
    try:
        send(client, **arguments)
    except MlflowException as error:
        kind = Refused if error.error_code in _REFUSALS else OSError
        raise kind(first_line(error)) from error


def _metrics(client: "MlflowClient", run: str, metrics: dict[str, float], time: int, step: int) -> None:
    from mlflow.entities import Metric

    client.log_batch(run, metrics=[Metric(key, value, time, step) for key, value in metrics.items()])


def _parameters(client: "MlflowClient", run: str, values: dict[str, str]) -> None:
    """A run that goes on keeps the values it began with; the new ones become tags `changed.<name>`."""
    from mlflow.entities import Param

    known = client.get_run(run).data.params
    entries = [Param(key, value) for key, value in values.items() if key not in known]
    for start in range(0, len(entries), MAX_BATCH):
        client.log_batch(run, params=entries[start : start + MAX_BATCH])
    changed = {key: value for key, value in values.items() if known.get(key, value) != value}
    _tags(client, run, {f"changed.{key}": value for key, value in changed.items()})


def _tags(client: "MlflowClient", run: str, values: dict[str, str]) -> None:
    for key, value in values.items():
        client.set_tag(run, key, value)


def _data(client: "MlflowClient", run: str, **dataset: Any) -> None:
    from mlflow.entities import Dataset, DatasetInput

    client.log_inputs(run, datasets=[DatasetInput(Dataset(**dataset))])


def _file(client: "MlflowClient", run: str, path: str, folder: str | None) -> None:
    client.log_artifact(run, path, folder)


def _folder(client: "MlflowClient", run: str, path: str, folder: str) -> None:
    client.log_artifacts(run, path, folder)


def _table(client: "MlflowClient", run: str, rows: dict[str, list[Any]], file: str) -> None:
    client.log_table(run, rows, file)


def _end(client: "MlflowClient", run: str, status: str) -> None:
    client.set_terminated(run, status)


_SENDERS: dict[str, Callable[..., None]] = {
    "metrics": _metrics, "parameters": _parameters, "tags": _tags, "data": _data, "file": _file,
    "folder": _folder, "table": _table, "end": _end,
}  # fmt: skip
