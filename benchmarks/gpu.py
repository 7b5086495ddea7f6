"""Everything that a machine with one GPU can show, in less than eight minutes: `make gpu`.

`python benchmarks/gpu.py [--shape 1b|tiny] [--device auto|cpu]`, from the top of the repository. It needs
neither network nor vLLM, and katlit need not be installed: what the machine lacks of `gpu-packages.txt` is
installed from the wheels in `build/gpu-wheels`, which `make gpu-wheels` has fetched on another machine, into
`build/gpu`. Each part (`_gpu_parts.py`) runs in a process of its own, so that the fault of one does not cost
the others; a part that does not fit into the time that is left is cut off.

The last line is a JSON object with an entry for each part. Without a GPU it has `skipped`, and nothing is
run, unless by `--device cpu`, which shows that the script itself works. It is the same where the Python has
no torch. Status 1 where a part failed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WHEELS, MADE = ROOT / "build/gpu-wheels", ROOT / "build/gpu"
PARTS = ("kernels", "distill", "cold_start", "step_srpo", "fsdp2")
SECONDS = 460.0  # for all of them


def missing() -> list[str]:
    """Packages of the list that are not installed."""
    listed = (ROOT / "benchmarks/gpu-packages.txt").read_text(encoding="utf-8").split()
    return [name for name in listed if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def prepare() -> dict[str, str]:
    """Make katlit and what it needs importable; the environment of the parts.

    Raises:
        SystemExit: where wheels are missing.
    """
    folders = []
    if lacking := missing():
        target = str(MADE / "packages")
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-index", "--no-deps", "--upgrade"]
        done = subprocess.run(  # noqa: S603 (our own command)
            [*pip, "--find-links", str(WHEELS), "--target", target, *lacking], check=False
        )
        if done.returncode:
            raise SystemExit(
                f"missing: {', '.join(lacking)}; run `make gpu-wheels` on a machine with a network, and "
                f"carry {WHEELS.relative_to(ROOT)} here"
            )
        folders.append(target)
    if find_spec("katlit") is None or find_spec("katlit.modules") is None:
        folders.append(str(_layout(MADE / "katlit")))
    inherited = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([*folders, *([inherited] if inherited else [])])}


def _layout(folder: Path) -> Path:
    """Katlit as it is installed, by links; the folder to import it from."""
    package = folder / "katlit"
    package.mkdir(parents=True, exist_ok=True)
    inside = [path for path in (ROOT / "katlit").iterdir() if path.name != "__pycache__"]
    for path in [*inside, *(ROOT / name for name in ("modules", "datamodules", "configs"))]:
        link = package / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    metadata = folder / f"katlit-{version}.dist-info/METADATA"  # exports note the version
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: katlit\nVersion: {version}\n", encoding="utf-8")
    return folder


def run(part: str, shape: str, device: str, environment: dict[str, str], seconds: float) -> dict[str, Any]:
    """What a part measures, or why it does not."""
    command = [sys.executable, str(ROOT / "benchmarks/_gpu_parts.py"), part, shape, device]
    begin = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603 (our own command)
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"cut off after {seconds:.0f} seconds"}
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return {"error": lines[-1] if lines else f"status {done.returncode}"}
    return json.loads(lines[-1]) | {"wall_seconds": round(time.monotonic() - begin, 1)}


def _skip(why: str, hint: str) -> int:
    """Say that nothing is run, and what to do about it; the status."""
    print(why, hint)
    print(json.dumps({"skipped": why}))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts."""
    parser = argparse.ArgumentParser(description="Measure katlit on one GPU.")
    parser.add_argument("--shape", choices=("1b", "tiny"), default="1b")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    chosen = parser.parse_args(arguments)
    if find_spec("torch") is None:
        other = "make gpu PYTHON=/path/to/python3 takes another one"
        return _skip("no torch", f"in {sys.executable}: nothing was run; {other}")
    import torch

    if chosen.device == "auto" and not torch.cuda.is_available():
        return _skip("no GPU", "here: nothing was run; --device cpu --shape tiny tries the script")
    device = "cpu" if chosen.device == "cpu" else torch.cuda.get_device_name()
    end, environment, found = time.monotonic() + SECONDS, prepare(), {}
    for part in PARTS:
        kind = "cpu" if chosen.device == "cpu" else "cuda"
        found[part] = run(part, chosen.shape, kind, environment, max(1.0, end - time.monotonic()))
        print(part, json.dumps(found[part]), flush=True)
    print(json.dumps({"device": device, "torch": torch.__version__, "shape": chosen.shape} | found))
    return int(any("error" in each for each in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
