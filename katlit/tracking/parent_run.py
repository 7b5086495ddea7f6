"""The MLflow run that the stages of one experiment hang under."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from katlit.errors import UserError
from katlit.tracking.mlflow import KatMLFlowLogger
from katlit.tracking.store import TrackerDownError, check_tracking, client_of, create_run, refusals

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
        TrackerDownError: where MLflow does not answer.
        UserError: where it cannot be written, naming the URI.
    """
    check_tracking(tracking_uri)
    try:
        with refusals(tracking_uri):
            client_of(tracking_uri).update_run(run_id, status="RUNNING")
    except TrackerDownError:
        raise
    except UserError:
        return False
    return True


def close_killed_runs(tracking_uri: str, run_id: str) -> None:
    """Close a parent run and the runs under it as killed, those of them that are still open.

    Raises:
        TrackerDownError: where MLflow does not answer.
    """
    try:
        check_tracking(tracking_uri)
        with refusals(tracking_uri):
            client = client_of(tracking_uri)
            experiments = [one.experiment_id for one in client.search_experiments()]
            under = client.search_runs(experiments, _UNDER.format(run_id))
            for run in [*under, client.get_run(run_id)]:
                if run.info.status == "RUNNING":
                    client.set_terminated(run.info.run_id, "KILLED")
    except TrackerDownError:
        raise
    except UserError as error:  # such as a run that was deleted
        logger.warning("%s; runs of before stay open", error)


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


def finish_parent_run(
    tracking_uri: str,
    run_id: str,
    *,
    failed: bool = False,
    files: Sequence[Path] = (),
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Close the parent run; what was trained does not depend on it, so nothing is raised.

    Args:
        tracking_uri: Where the run is.
        run_id: The parent run.
        failed: Whether a stage failed.
        files: Artifacts that are added, such as the report.
        metrics: Final numbers.
    """
    try:
        tracker = KatMLFlowLogger(tracking_uri=tracking_uri, run_id=run_id)
        tracker.check(goes_on=True)
        for file in files:
            tracker.log_file(file)
        tracker.log_metrics(metrics or {})
        tracker.finalize("failed" if failed else "success")
    except UserError as error:
        logger.warning("%s; the run %s stays open", error, run_id)
