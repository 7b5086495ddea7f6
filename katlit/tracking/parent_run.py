"""The MLflow run that the stages of one experiment hang under."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from katlit.tracking.mlflow import check_tracking, client_of, create_run, refusals
from katlit.tracking.redaction import redact

logger = logging.getLogger(__name__)

_UNDER = "tags.`mlflow.parentRunId` = '{}'"  # MLflow's filter for the runs below one, the newest comes first


def start_parent_run(tracking_uri: str, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    """Create the run that the stages of one experiment hang under.

    Returns:
        Its id, for `parent_run_id` of the stages' loggers or the variable `KATLIT_PARENT_RUN_ID`.

    Raises:
        UserError: where MLflow cannot be reached or written, naming the URI.
    """
    check_tracking(tracking_uri)
    with refusals(tracking_uri):
        return create_run(client_of(tracking_uri), tracking_uri, experiment, name, tags)


def reopen_run(tracking_uri: str, run_id: str) -> bool:
    """Go on with a run that was stopped; False where it is not there any more.

    Raises:
        UserError: where MLflow cannot be reached or written, naming the URI.
    """
    from mlflow.exceptions import MlflowException

    check_tracking(tracking_uri)
    try:
        client_of(tracking_uri).update_run(run_id, status="RUNNING")
    except MlflowException:
        return False
    return True


def close_killed_runs(tracking_uri: str, run_id: str) -> None:
    """Close a parent run and the runs under it as killed, those of them that are still open."""
    from mlflow.exceptions import MlflowException

    try:
        client = client_of(tracking_uri)
        experiments = [one.experiment_id for one in client.search_experiments()]
        under = client.search_runs(experiments, _UNDER.format(run_id))
        for run in [*under, client.get_run(run_id)]:
            if run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, "KILLED")
    except MlflowException as error:  # such as a run that was deleted
        logger.warning("MLflow at %s: runs of before stay open (%s)", redact(tracking_uri), error)


def page_of(tracking_uri: str, run_id: str) -> str:
    """Path of an experiment's charts in MLflow's pages, behind the address that `mlflow ui` prints.

    That is the page of the newest run below the parent run with a reward, else the list of all runs, which
    MLflow shows with the stages folded up.

    Args:
        tracking_uri: Where the run is.
        run_id: The parent run.
    """
    with refusals(tracking_uri):
        client = client_of(tracking_uri)
        experiment = client.get_run(run_id).info.experiment_id
        under = client.search_runs([experiment], _UNDER.format(run_id))
    rewarded = [run.info.run_id for run in under if "rollout/reward" in run.data.metrics]
    place = f"/{rewarded[0]}/model-metrics" if rewarded else ""
    return f"/#/experiments/{experiment}/runs{place}?workflowType=machine_learning"


def log_to_run(tracking_uri: str, run_id: str, files: Sequence[Path], metrics: Mapping[str, float]) -> None:
    """Add files (as artifacts, under their names) and final numbers to a run, such as the parent's report."""
    with refusals(tracking_uri):
        client = client_of(tracking_uri)
        for file in files:
            client.log_artifact(run_id, str(file))
        for key, value in metrics.items():
            client.log_metric(run_id, key, value)


def finish_parent_run(tracking_uri: str, run_id: str, *, failed: bool = False) -> None:
    """Close the parent run."""
    from mlflow.exceptions import MlflowException

    try:
        client_of(tracking_uri).set_terminated(run_id, "FAILED" if failed else "FINISHED")
    except MlflowException as error:  # what was trained does not depend on it
        logger.warning("MLflow at %s: the run %s stays open (%s)", redact(tracking_uri), run_id, error)
