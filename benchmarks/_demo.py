"""The demo's stages as commands, for what is measured on them."""

from pathlib import Path

OUTPUT = Path("outputs/demo")


def stage_command(command: str, stage: str, seed: int) -> list[str]:
    """`katlit fit`, `label` or `test` with the demo's settings of a stage."""
    settings = ("base.yaml", f"stage/{stage}.yaml", f"demo/{stage}.yaml")
    files = [word for name in settings for word in ("-c", name)]
    return ["katlit", command, *files, f"--seed_everything={seed}"]
