"""How MLflow's database is opened."""

import errno
import fcntl
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from katlit.errors import UserError
from katlit.tracking import store
from katlit.tracking.mlflow import KatMLFlowLogger
from katlit.tracking.parent_run import start_parent_run
from katlit.tracking.store import TrackerDownError, client_of, refusals


@pytest.fixture
def database(tmp_path: Path, new_database: Path) -> Path:
    return Path(shutil.copy(new_database, tmp_path / "mlflow.db"))


@pytest.fixture
def locked(database: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection."""
    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other


def test_a_lock_is_waited_for_and_then_told_in_one_line(
    database: Path,
    locked: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.0)
    with pytest.raises(TrackerDownError, match=rf"{database}: database is locked; another process holds it"):
        start_parent_run(f"sqlite:///{database}", "stages", "demo", {})
    monkeypatch.setattr(store.time, "sleep", lambda _: locked.execute("ROLLBACK"))
    monkeypatch.setattr(store, "LOCK_SECONDS", 60.0)
    assert start_parent_run(f"sqlite:///{database}", "stages", "demo", {})
    assert caplog.messages == [f"MLflow's database {database} is locked; waiting for up to 60 seconds"]


def test_a_run_that_goes_on_does_so_while_the_database_is_locked(
    database: Path, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.0)
    logger = KatMLFlowLogger(tracking_uri=f"sqlite:///{database}")
    logger.check(goes_on=True)
    logger.log_metrics({"loss": 1.0}, 1)
    locked.execute("ROLLBACK")
    logger.finalize("success")
    client = client_of(f"sqlite:///{database}")
    (run,) = client.search_runs([client.get_experiment_by_name("katlit").experiment_id])
    assert run.data.metrics == {"loss": 1.0}


@pytest.mark.parametrize("damage", ["cut off", "another file"])
def test_a_damaged_database_is_told_in_one_line(damage: str, database: Path) -> None:
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2] if damage == "cut off" else b"no database" * 1000)
    with pytest.raises(UserError, match=rf"{database}: (database disk|file is not).*; move it away") as told:
        KatMLFlowLogger(tracking_uri=f"sqlite:///{database}").check()
    assert not isinstance(told.value, TrackerDownError)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ("database or disk is full", "make room on that disk"),
        ("disk I/O error", "or mend it"),
        ("attempt to write a readonly database", "have it writable"),
        ("database disk image is malformed", "move it away"),
    ],
)
def test_only_a_damaged_database_is_to_be_moved_away(said: str, mend: str) -> None:
    from sqlalchemy.exc import OperationalError

    error = OperationalError("INSERT", (), sqlite3.OperationalError(said))
    with pytest.raises(UserError, match=mend) as told, refusals("sqlite:///a.db"):
        raise error
    assert ("move it away" in str(told.value)) == ("malformed" in said)


def test_a_database_is_locked_without_writing_and_where_there_are_no_locks_opened(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client_of(f"sqlite:///{database}")
    lock = database.parent / ".mlflow.db.lock"
    lock.chmod(0o444)  # of another user
    assert client_of(f"sqlite:///{database}")

    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    assert client_of(f"sqlite:///{database}")


def test_what_is_below_mlflow_fails_in_one_line() -> None:
    from alembic.util import CommandError
    from sqlalchemy.exc import OperationalError

    with (
        pytest.raises(UserError, match=r"MLflow at sqlite:///a\.db: no such revision"),
        refusals("sqlite:///a.db"),
    ):
        raise CommandError("no such revision")
    lock = sqlite3.OperationalError("database is locked")
    with pytest.raises(TrackerDownError, match=r"a\.db: database is locked"), refusals("sqlite:///a.db"):
        raise OperationalError("BEGIN", (), lock)


def test_a_database_is_opened_by_one_run_at_a_time(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both create its tables, one of them fails."""
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.0)
    with (database.parent / ".mlflow.db.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TrackerDownError, match=r"mlflow\.db: database is locked by a run that opens it"):
            client_of(f"sqlite:///{database}")
        monkeypatch.setattr(store, "LOCK_SECONDS", 60.0)
        monkeypatch.setattr(store.time, "sleep", lambda _: fcntl.flock(other, fcntl.LOCK_UN))
        assert client_of(f"sqlite:///{database}")
