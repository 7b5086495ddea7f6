import os
import time
from pathlib import Path

import pytest

from katlit.parallel.abandoned_builds import warn_of_abandoned_builds


@pytest.mark.parametrize(("age", "told"), [(7200, "lock is 120 minutes old"), (10, "")])
def test_a_lock_that_is_older_than_a_build_is_named(
    age: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "py311_cpu/deepspeed_shm_comm/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, times=(time.time() - age,) * 2)

    warn_of_abandoned_builds()

    assert told in caplog.text
    assert bool(caplog.records) is bool(told)
