"""Every test: one thread, no network, known seeds."""

import os
import random
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).parents[1]

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # Lightning 2.6 calls what jsonargparse 5 will drop
for variable in ("MLFLOW_TRACKING_URI", "KATLIT_PARENT_RUN_ID"):
    os.environ.pop(variable, None)

torch.set_num_threads(1)
# Nothing is asserted of how long an example takes: the first one may load a library on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database as MLflow makes it, in seconds of migrations; tests that need their own copy it."""
    from mlflow import MlflowClient  # seconds, for those that need it

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installation is built from; its build folder is not the repository's."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "katlit", "modules", "datamodules", "configs"):
        (source / name).symlink_to(ROOT / name)
    return source


@pytest.fixture(scope="session")
def server_environment(tmp_path_factory: pytest.TempPathFactory, source_tree: Path) -> dict[str, str]:
    """With which a vLLM server finds this tree's plugin, even where an older katlit is installed."""
    path = [str(ROOT)]
    if not entry_points(group="vllm.general_plugins", name="katlit_file_transfer"):
        target = tmp_path_factory.mktemp("installed")
        install = ["install", "--no-deps", "--no-build-isolation", "--quiet", "--target", str(target)]
        subprocess.run([sys.executable, "-m", "pip", *install, str(source_tree)], check=True)
        path.append(str(target))
    return {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
