"""What MLflow is told of runs; over 400 lines because all tests share a database, which is slow to create."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from mlflow import MlflowClient, get_experiment_by_name, get_tracking_uri, search_traces, set_tracking_uri

from katlit.cli import main
from katlit.commands.trace import send
from katlit.errors import UserError
from katlit.tracking import delivery, mlflow
from katlit.tracking.mlflow import KatMLFlowLogger, default_tracking_uri
from katlit.tracking.outbox import Refused
from katlit.tracking.parent_run import finish_parent_run, page_of, start_parent_run
from katlit.tracking.store import TrackerDownError, check_tracking

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


@pytest.fixture(scope="module")
def fitted(uri: str, client: MlflowClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An ordinary `katlit fit` below a parent run; its MLflow run, its parent's id, and its output folder."""
    folder = tmp_path_factory.mktemp("run")
    parent = start_parent_run(uri, "stages", "demo", {"seed": "1"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("KATLIT_PARENT_RUN_ID", parent)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        status = main(
            [
                *["fit", "-c", "configs/base.yaml"],
                *["-c", "tests/stubs/tinystage.yaml", "-c", "tests/stubs/callbacks.yaml"],
                *["--trainer.max_steps=3", f"--trainer.default_root_dir={folder}"],
                *["--model.api_key=hunter2", f"--model.note={'long ' * 200}"],
                f"--trainer.callbacks.init_args.directory={folder}/export",
                *["--trainer.logger.experiment_name=stages", "--trainer.logger.run_name=tiny"],
            ]
        )
    assert status == 0
    (run,) = [run for run in client.search_runs(["1"]) if run.info.run_name == "tiny"]
    yield run, parent, folder
    finish_parent_run(uri, parent)


def test_a_stage_is_a_finished_child_of_the_parent(fitted: Any) -> None:
    run, parent, _ = fitted
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent


def test_parameters_are_flat_and_long_ones_visibly_shortened(fitted: Any) -> None:
    parameters = fitted[0].data.params
    assert parameters["trainer.max_steps"] == "3"
    assert parameters["trainer.callbacks.0.class_path"] == "katlit.callbacks.Throughput"
    note = parameters["model.init_args.note"]
    assert len(note) == 500
    assert note.startswith("long long ")
    assert note.endswith("… (shortened from 1000 characters, whole in config.yaml)")


def test_the_settings_are_kept_whole_without_secrets(
    fitted: Any, client: MlflowClient, tmp_path: Path
) -> None:
    run, _, folder = fitted
    kept = client.download_artifacts(run.info.run_id, "config.yaml", str(tmp_path))
    settings = yaml.safe_load(Path(kept).read_text())
    assert settings["model"]["init_args"]["note"] == "long " * 200
    assert settings["model"]["init_args"]["api_key"] == "***"
    assert settings["model"]["init_args"]["warmup"] == 3
    assert (folder / "config.yaml").read_bytes() == Path(kept).read_bytes()
    assert "hunter2" not in str(run.to_dictionary())


def test_the_origin_is_kept(fitted: Any) -> None:
    tags = fitted[0].data.tags
    assert {"version.torch", "version.lightning", "version.mlflow", "version.python"} <= set(tags)
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if commit.returncode == 0:
        assert tags["mlflow.source.git.commit"] == commit.stdout.strip()
        assert tags["git.dirty"] in ("true", "false")


def test_the_data_are_named(fitted: Any) -> None:
    (data,) = fitted[0].inputs.dataset_inputs
    assert data.dataset.name == "tinystage.TinyData"
    assert json.loads(data.dataset.source) == {"cache": None, "rows": 8}


def test_metrics_have_every_step(fitted: Any, client: MlflowClient) -> None:
    history = client.get_metric_history(fitted[0].info.run_id, "train/loss")
    assert [entry.step for entry in history] == [0, 1, 2]
    assert history[0].value > history[-1].value > 0


def test_sample_rollouts_are_a_table(fitted: Any, client: MlflowClient, tmp_path: Path) -> None:
    kept = client.download_artifacts(fitted[0].info.run_id, "rollouts.json", str(tmp_path))
    table = json.loads(Path(kept).read_text())
    assert table["columns"][:3] == ["step", "question", "reference"]
    assert [row[:3] for row in table["data"]] == [[step, "1+1", "<b>2</b>"] for step in (1, 2)]


def test_the_model_is_exported_and_kept(fitted: Any, client: MlflowClient) -> None:
    run, _, folder = fitted
    assert (folder / "export/weights.pt").is_file()
    assert [file.path for file in client.list_artifacts(run.info.run_id, "model")] == ["model/weights.pt"]


def test_the_parent_takes_files_and_numbers(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    parent = start_parent_run(uri, "parents", "demo", {"seed": "2"})
    (tmp_path / "report.md").write_text("# Report")
    ratio = {"headline/token_ratio": 0.5}
    finish_parent_run(uri, parent, failed=True, files=[tmp_path / "report.md"], metrics=ratio)
    run = client.get_run(parent)
    assert (run.info.run_name, run.info.status, run.data.tags["seed"]) == ("demo", "FAILED", "2")
    assert run.data.metrics == {"headline/token_ratio": 0.5}
    assert [file.path for file in client.list_artifacts(parent)] == ["report.md"]
    assert run.info.artifact_uri.startswith(
        f"file://{Path(uri.removeprefix('sqlite:///')).parent}/mlartifacts/"
    )


def test_an_experiment_is_of_training_unless_its_owner_says_otherwise(uri: str, client: MlflowClient) -> None:
    start_parent_run(uri, "mine", "first", {})
    experiment = client.get_experiment_by_name("mine")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    client.set_experiment_tag(experiment.experiment_id, "mlflow.experimentKind", "finetuning")
    run = start_parent_run(uri, "mine", "second", {})
    assert client.get_experiment_by_name("mine").tags["mlflow.experimentKind"] == "finetuning"
    assert (
        page_of(uri, run) == f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    )


def test_the_charts_begin_with_reward_accuracy_think_rate_and_tokens(uri: str, client: MlflowClient) -> None:
    parent = start_parent_run(uri, "charts", "parent", {})
    logger = KatMLFlowLogger("charts", tracking_uri=uri, parent_run_id=parent)
    rollout = ("mean_tokens", "accuracy", "think_rate", "reward")
    names = ["history/solved", *(f"rollout/{name}" for name in rollout)]
    logger.log_metrics({name: float(number) for number, name in enumerate(names)}, 1)
    logger.finalize("success")
    metrics = client.get_run(str(logger.run_id)).data.metrics
    assert [metrics[name] for name in sorted(metrics)][:5] == [4.0, 2.0, 3.0, 1.0, 0.0]
    assert set(names) < set(metrics)
    later = KatMLFlowLogger("charts", tracking_uri=uri, parent_run_id=parent)
    later.log_metrics({"val/accuracy": 1.0}, 1)
    later.finalize("success")
    assert f"/runs/{logger.run_id}/model-metrics?" in page_of(uri, parent)


def test_a_run_goes_on_where_it_stopped(uri: str, client: MlflowClient) -> None:
    first = KatMLFlowLogger("resumed", tracking_uri=uri)
    first.log_metrics({"loss": 2.0}, step=1)
    first.finalize("failed")
    assert client.get_run(first.run_id).info.status == "FAILED"
    second = KatMLFlowLogger("resumed", tracking_uri=uri, run_id=first.run_id)
    second.log_metrics({"loss": 1.0}, step=2)
    assert client.get_run(first.run_id).info.status == "RUNNING"
    second.finalize("success")
    assert [entry.value for entry in client.get_metric_history(first.run_id, "loss")] == [2.0, 1.0]


def test_a_run_that_goes_on_with_other_settings_keeps_both(uri: str, client: MlflowClient) -> None:
    first = KatMLFlowLogger("resumed", tracking_uri=uri)
    first.log_hyperparams({"ckpt_path": None, "rate": 0.1})
    first.finalize("failed")
    second = KatMLFlowLogger("resumed", tracking_uri=uri, run_id=first.run_id)
    second.log_hyperparams({"ckpt_path": "last", "rate": 0.1, "new": 1})
    second.finalize("success")
    run = client.get_run(first.run_id)
    assert run.data.params == {"ckpt_path": "None", "rate": "0.1", "new": "1"}
    assert run.data.tags["changed.ckpt_path"] == "last"
    assert run.info.status == "FINISHED"


def test_a_locked_database_holds_up_nobody(uri: str, client: MlflowClient) -> None:
    logger = KatMLFlowLogger("locked", tracking_uri=uri)
    assert logger.run_id
    folder = Path(uri.removeprefix("sqlite:///")).parent
    with sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        for step in range(3):
            logger.log_metrics({"loss": 1.0}, step)
        (file,) = folder.glob("*.unsent.jsonl")
        assert len(file.read_text().splitlines()) == 3
        other.execute("ROLLBACK")
    other.close()
    logger.finalize("success")
    assert [entry.step for entry in client.get_metric_history(logger.run_id, "loss")] == [0, 1, 2]
    assert not list(folder.glob("*.unsent.jsonl"))


def down(uri: str, **_: object) -> None:
    raise TrackerDownError(f"{uri} is down")


def test_a_run_of_a_recipe_is_created_when_mlflow_is_back(
    uri: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parent = start_parent_run(uri, "late", "parent", {})
    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "check_tracking", down)
        patch.setattr(delivery, "client_of", down)
        patch.setattr(mlflow, "PATIENCE", 0.2)
        first = KatMLFlowLogger("late", "first", tracking_uri=uri, parent_run_id=parent)
        first.check()
        _ = first.experiment
        first.log_metrics({"loss": 2.0}, 5)
        first.finalize("success")
    assert len(caplog.messages) == 2
    assert "is down; the run goes on, what it logs waits in" in caplog.messages[0]
    assert "3 of 3 entries were not sent" in caplog.messages[1]
    second = KatMLFlowLogger("late", "second", tracking_uri=uri)
    second.log_metrics({"loss": 1.0}, 1)
    second.finalize("success")
    runs = client.search_runs([client.get_experiment_by_name("late").experiment_id])
    (found,) = [run for run in runs if run.info.run_name == "first"]
    assert (found.info.status, found.data.tags["mlflow.parentRunId"]) == ("FINISHED", parent)
    assert [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, "loss")] == [
        (5, 2.0)
    ]
    assert len(runs) == 3


@pytest.mark.parametrize("dies", ["before the check", "after it"])
def test_a_run_that_goes_on_does_so_without_mlflow_and_another_does_not(
    dies: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "check_tracking" if dies == "before the check" else "client_of", down)
    fresh = KatMLFlowLogger("late", tracking_uri=uri)
    with pytest.raises(TrackerDownError):  # noqa: PT012 (whichever comes first)
        fresh.check()
        _ = fresh.experiment
    logger = KatMLFlowLogger("late", tracking_uri=uri)
    logger.check(goes_on=True)
    assert str(logger.run_id).startswith("later-")
    logger.finalize("success")


@pytest.mark.parametrize("since", ["written over", "gone", "as it was, with a card"])
def test_an_artifact_that_is_another_one_since_is_not_sent(
    since: str, uri: str, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("of run 1")
    logger = KatMLFlowLogger("artifacts", tracking_uri=uri)
    sent = threading.Event()
    send = delivery.deliver

    def late(*words: Any) -> None:
        assert sent.wait(60)
        send(*words)

    monkeypatch.setattr(delivery, "deliver", late)
    logger.log_folder(model, "model")
    logger.log_file(model / "weights", "one")
    logger.log_metrics({"loss": 1.0}, 1)
    if since == "as it was, with a card":
        (model / "README.md").touch()
    else:
        model.rename(tmp_path / "aside")
    if since == "written over":
        model.mkdir()
        (model / "weights").write_text("of run 2")
    sent.set()
    logger.finalize("success")
    kept = sorted(file.path for file in client.list_artifacts(logger.run_id))
    run = client.get_run(logger.run_id)
    assert kept == (["model", "one"] if since == "as it was, with a card" else [])
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 1.0})


def test_a_line_that_nobody_understands_is_refused(client: MlflowClient) -> None:
    for entry in ({"kind": "smell", "run": "a"}, {"run": "a"}, {"kind": "metrics", "run": "a", "steps": 1}):
        with pytest.raises(Refused):
            delivery.deliver(client, entry)


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """MLflow's server over a database in the folder, once it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers=1", "--host=127.0.0.1", f"--port={port}"]
    store = [f"--backend-store-uri=sqlite:///{folder}/server.db", f"--artifacts-destination={folder}/kept"]
    server = subprocess.Popen([*command, *store], start_new_session=True)
    while True:
        assert server.poll() is None
        with suppress(UserError):
            check_tracking(f"http://127.0.0.1:{port}")
            return server
        time.sleep(0.5)


@pytest.mark.slow
def test_a_server_that_is_killed_gets_all_when_it_is_back(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = free.server_port
    uri = f"http://127.0.0.1:{port}"
    server = serve(tmp_path, port)
    logger = KatMLFlowLogger("killed", tracking_uri=uri, save_dir=str(tmp_path / "out"))
    try:
        logger.log_metrics({"loss": 0.0}, 0)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        logger.log_metrics({"loss": 1.0}, 1)
        (tmp_path / "table.csv").write_text("a")
        logger.log_file(tmp_path / "table.csv")
        (file,) = (tmp_path / "out").glob("*.unsent.jsonl")
        assert len(file.read_text().splitlines()) == 3
        server = serve(tmp_path, port)
        logger.finalize("success")
        client = MlflowClient(uri)
        assert [entry.step for entry in client.get_metric_history(str(logger.run_id), "loss")] == [0, 1]
        assert [kept.path for kept in client.list_artifacts(str(logger.run_id))] == ["table.csv"]
        assert client.get_run(str(logger.run_id)).info.status == "FINISHED"
        assert not list((tmp_path / "out").iterdir())
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_an_unknown_run_is_a_users_mistake(uri: str) -> None:
    with pytest.raises(UserError, match="nowhere"):
        _ = KatMLFlowLogger(tracking_uri=uri, run_id="nowhere").run_id


def test_the_constructor_touches_nothing(tmp_path: Path) -> None:
    logger = KatMLFlowLogger(save_dir=str(tmp_path / "new"))
    logger.finalize("success")
    assert not (tmp_path / "new").exists()
    logger.check()
    assert list((tmp_path / "new").iterdir()) == []


def test_default_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert default_tracking_uri(tmp_path) == "http://server"


@pytest.mark.parametrize("status", [200, 401])
def test_a_server_that_answers_is_there(status: int) -> None:
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status if self.path == "/health" else 500)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        check_tracking(f"http://me:secret@127.0.0.1:{server.server_port}/")
        server.shutdown()
    assert asked == ["/health"]


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    with pytest.raises(UserError, match=rf"http://\*\*\*@127\.0\.0\.1:{port} cannot be reached"):
        check_tracking(f"http://me:secret@127.0.0.1:{port}")


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")  # MLflow's own
def test_traces_of_agents_become_traces(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # and taken back at the end: `set_tracking_uri` leaves it
    step = {"role": "critic", "think": "", "text": "No.", "seed": 7, "tokens": 5, "model": "the-model"}
    before = get_tracking_uri()
    trace = {"id": "2+2", "kept": True, "judge": "so", "score": 4, "steps": [step | {"role": "solver"}, step]}
    try:
        send(trace, uri, "agents")
        (found,) = search_traces(
            locations=[get_experiment_by_name("agents").experiment_id], return_type="list"
        )
    finally:
        set_tracking_uri(before)
    root, *spans = found.data.spans
    assert (root.name, root.inputs, root.attributes["score"]) == ("query", {"id": "2+2"}, 4)
    assert [span.name for span in spans] == ["solver", "critic"]
    assert {span.parent_id for span in spans} == {root.span_id}
    assert (spans[1].outputs, spans[1].attributes["seed"]) == ({"think": "", "text": "No."}, 7)


@pytest.mark.parametrize(("kind", "answer"), [("file", Refused), ("metrics", OSError)])
def test_what_a_library_below_mlflow_raises_costs_an_artifact_at_most(
    kind: str, answer: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of a store of files without credentials."""

    def fail(*_: object) -> None:
        raise ValueError("no credentials")

    monkeypatch.setitem(delivery._SENDERS, kind, fail)
    with pytest.raises(answer, match="ValueError: no credentials"):
        delivery.deliver(Mock(), {"kind": kind, "run": "a"})
