"""What several of these tests need."""

from pathlib import Path

import pytest

from benchmarks._smollm2 import model_directory
from katlit.errors import UserError


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The directory of a real model; where its package cannot be had, the tests that need it are skipped."""
    pytest.importorskip("vllm", exc_type=ImportError)
    try:
        return model_directory()
    except UserError as error:
        pytest.skip(str(error))
