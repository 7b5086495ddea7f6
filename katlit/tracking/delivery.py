"""What is sent to MLflow, entry by entry."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katlit.errors import UserError, first_line
from katlit.tracking.outbox import Entry, Refused
from katlit.tracking.store import REFUSALS, client_of, create_run, refusals

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_PARAMETER = 500  # characters, what MLflow servers before 2.10 take
MAX_BATCH = 100  # parameters in one request, MLflow's limit

LATER = "later-"  # begins the name of a run, among entries, that MLflow could not create at its start
_LATER_TAG = "katlit.later"  # has that name in MLflow


def shortened(value: str) -> str:
    """The value, or as much as MLflow takes with a visible note of what is missing."""
    if len(value) <= MAX_PARAMETER:
        return value
    note = f" … (shortened from {len(value)} characters, whole in config.yaml)"
    return value[: MAX_PARAMETER - len(note)] + note


class Delivery:
    """Sends entries to an MLflow, which is opened when the first one is sent.

    Args:
        uri: Where MLflow is.
        client: MLflow's client, where it is open already.
    """

    def __init__(self, uri: str, client: "MlflowClient | None" = None) -> None:
        self._uri = uri
        self._client = client

    def __call__(self, entry: Entry) -> None:
        """Send an entry; see `deliver`."""
        if self._client is None:
            try:
                with refusals(self._uri):
                    self._client = client_of(self._uri, patience=0.0)
            except UserError as error:
                raise OSError(first_line(error)) from error
        deliver(self._client, entry)


def deliver(client: "MlflowClient", entry: Entry) -> None:
    """Send an entry.

    Raises:
        Refused: where MLflow does not want it.
        OSError: where it cannot take it now.
    """
    from mlflow.exceptions import MlflowException

    try:
        _send(client, **entry)
    except (TypeError, KeyError) as error:  # such as a line of another version of katlit
        raise Refused(f"{entry.get('kind')}: {type(error).__name__} {first_line(error)}") from error
    except MlflowException as error:
        answer = Refused if error.error_code in REFUSALS else OSError
        raise answer(first_line(error)) from error
    except (OSError, Refused):
        raise
    except Exception as error:  # of the library of a store of files, such as S3's
        answer = Refused if entry["kind"] in ("file", "folder") else OSError
        raise answer(f"{type(error).__name__}: {first_line(error)}") from error


def _send(client: "MlflowClient", kind: str, run: str, **content: Any) -> None:
    if kind == "create":
        _create(client, run, **content)
    else:
        _SENDERS[kind](client, _id_of(client, run), **content)


def _create(client: "MlflowClient", run: str, tags: dict[str, str], **new: Any) -> None:
    """Create a run that could not be created at its start, unless that was done since."""
    if _created(client, run) is None:
        create_run(client, tags=tags | {_LATER_TAG: run}, **new)


def _created(client: "MlflowClient", run: str) -> str | None:
    experiments = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`{_LATER_TAG}` = '{run}'", max_results=1)
    return found[0].info.run_id if found else None


_ids: dict[str, str] = {}  # of runs that were created later, by their names


def _id_of(client: "MlflowClient", run: str) -> str:
    """MLflow's id of the run of an entry."""
    if not run.startswith(LATER):
        return run
    if run not in _ids:
        found = _created(client, run)
        if found is None:
            raise Refused(f"the run {run} is not there")
        _ids[run] = found
    return _ids[run]


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


def fingerprint(path: Path) -> dict[str, list[int]]:
    """Bytes and time of change (nanoseconds) of a file, or of each in a folder by its relative name."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    stats = {file.relative_to(path).as_posix(): file.stat() for file in files if file.exists()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _require_same(path: Path, files: dict[str, list[int]]) -> None:
    """Refuse what was written over since it was logged, such as by the next run; new files do not matter."""
    if not path.exists():
        raise Refused(f"{path} is not there any more")
    now = fingerprint(path)
    for name, then in files.items():
        if now.get(name) != then:
            raise Refused(f"{path / name} is not what it was when it was logged")


def _file(
    client: "MlflowClient", run: str, path: str, folder: str | None, files: dict[str, list[int]]
) -> None:
    _require_same(Path(path), files)
    client.log_artifact(run, path, folder)


def _folder(client: "MlflowClient", run: str, path: str, folder: str, files: dict[str, list[int]]) -> None:
    _require_same(Path(path), files)
    client.log_artifacts(run, path, folder)


def _table(client: "MlflowClient", run: str, rows: dict[str, list[Any]], file: str) -> None:
    client.log_table(run, rows, file)


def _end(client: "MlflowClient", run: str, status: str) -> None:
    client.set_terminated(run, status)


_SENDERS: dict[str, Callable[..., None]] = {
    "metrics": _metrics, "parameters": _parameters, "tags": _tags, "data": _data, "file": _file,
    "folder": _folder, "table": _table, "end": _end,
}  # fmt: skip
