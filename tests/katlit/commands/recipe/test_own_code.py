"""Which files belong to the classes that settings name."""

from pathlib import Path
from typing import Any

import pytest

from katlit.commands.recipe.done import Marks, keys_of
from katlit.commands.recipe.own_code import own_files
from katlit.commands.recipe.steps import Step

FILES = {
    "mine.py": "import json, torch\nfrom parts import helper\nimport mine\n",
    "parts/__init__.py": "",
    "parts/helper.py": "from . import other\nfrom .deep.down import x\n",
    "parts/other.py": "no Python",
    "parts/deep/down.py": "from ...too.far import x",  # `deep` has no __init__
    "either.py": "try:\n    from .parts import other\nexcept ImportError:\n    from parts import other\n",
    "questions.py": "",
    "questions.jsonl": "",
    "alone.py": "from . import mine\0",
    "katlit/mine.py": "",
    "torch.py": "",  # the installed one comes first
}
HELPERS = ["parts/__init__.py", "parts/deep/down.py", "parts/helper.py", "parts/other.py"]


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("mine.Reward", ["mine.py", *HELPERS]),
        ("parts.helper.Reward", HELPERS),
        ("parts.Reward", ["parts/__init__.py"]),
        ("parts.deep.down.Reward", ["parts/__init__.py", "parts/deep/down.py"]),
        ("alone.Reward", ["alone.py"]),
        ("torch.nn.Linear", []),
        ("json.loads", []),
        ("either.Reward", ["either.py", "parts/__init__.py", "parts/other.py"]),
        ("questions.Reward", ["questions.py"]),
        ("a." + 300 * "a", []),
        ("katlit.mine.Reward", []),
        ("questions.jsonl", []),
        ("mine", []),
        ("../mine.py", []),
        ("1.5", []),
    ],
)
def test_own_files_are_those_of_the_class_and_of_what_it_imports(
    text: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, code in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    assert own_files([text]) == [tmp_path / name for name in files]


def test_a_file_that_cannot_be_read_is_left_to_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import mine")
    step = Step("fit", "fit", ("fit", "--reward=mine.Reward"), (), tmp_path / "out", (), ())
    (readable,) = keys_of([step], tmp_path / "out", Marks(tmp_path))

    opened = Path.open

    def refuse(self: Path, *how: Any, **named: Any) -> Any:
        if self.name == "mine.py":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *how, **named)

    monkeypatch.setattr(Path, "open", refuse)
    (unreadable,) = keys_of([step], tmp_path / "out", Marks(tmp_path))
    assert unreadable != readable
