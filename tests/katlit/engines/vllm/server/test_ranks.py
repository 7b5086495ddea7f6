"""What ranks tell each other, on two processes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from katlit.engines.vllm.server.ranks import Ranks
from katlit.errors import UserError

ROOT = Path(__file__).parents[5]
PRELUDE = """
import sys, time
from pathlib import Path
import torch.distributed as dist
from katlit.errors import UserError
from katlit.engines.vllm.server.ranks import Ranks
rank = int(sys.argv[1])
dist.init_process_group("gloo", store=dist.FileStore(sys.argv[2], 2), rank=rank, world_size=2)
ranks = Ranks(60)
"""


def on_two(script: str, directory: Path) -> list[str]:
    """What each rank prints."""
    command = [sys.executable, "-c", PRELUDE + script]
    runs = [
        subprocess.Popen(
            [*command, str(rank), str(directory / "store")],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [run.communicate(timeout=100) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    return [out.strip().splitlines()[-1] for out, _ in outputs]


@pytest.mark.slow
def test_the_first_ones_value_holds_for_all(tmp_path: Path) -> None:
    script = "print(ranks.first, ranks.agree({'value': rank}, None))"
    assert on_two(script, tmp_path) == ["True {'value': 0}", "False {'value': 0}"]


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_is_an_error_of_all(tmp_path: Path, failing: int) -> None:
    script = f"""
try:
    ranks.agree(None, "broken" if rank == {failing} else None)
except UserError as error:
    print(error)
"""
    assert on_two(script, tmp_path) == ["broken", "broken"]


@pytest.mark.slow
def test_closing_waits_for_the_others_but_not_for_ever(tmp_path: Path) -> None:
    script = """
dist.barrier()
started = time.monotonic()
time.sleep(1.5 * rank)
ranks.closing(20)
together = time.monotonic() - started
dist.barrier()
started = time.monotonic()
if rank == 0:
    ranks.closing(1)  # the other one never comes
print(1.4 < together < 10, time.monotonic() - started < 10, flush=True)
time.sleep(3 * rank)
"""
    assert on_two(script, tmp_path) == ["True True", "True True"]


def test_one_process_agrees_with_itself() -> None:
    started = time.monotonic()
    ranks = Ranks(60)
    assert ranks.first
    assert ranks.agree(7, None) == 7
    with pytest.raises(UserError, match="broken"):
        ranks.agree(None, "broken")
    ranks.wait()
    ranks.closing(60)
    assert time.monotonic() - started < 30  # it waited for nobody
