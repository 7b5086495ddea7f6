import os
import subprocess
import sys

import pytest

import katlit.cli
from katlit.cli import COMMANDS, main
from katlit.errors import UserError


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from katlit.cli import main; status = main(['--help']); "
        "heavy = {'torch', 'lightning', 'transformers', 'mlflow', 'jsonargparse'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert all(f"  {name} " in run.stdout for name in COMMANDS)


@pytest.mark.parametrize("given", [None, "active"])
def test_threads_that_wait_sleep_unless_the_environment_says_otherwise(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)

    main(["--help"])

    assert os.environ["OMP_WAIT_POLICY"] == (given or "passive")


@pytest.mark.parametrize(
    ("arguments", "named"), [([], "no command given"), (["fitt"], "unknown command 'fitt'"), (["-x"], "'-x'")]
)
def test_a_wrong_command_is_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("katlit: error: ")
    assert named in error
    assert error.count("\n") == 1


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("data.jsonl line 3:\n  not JSON"), 2, "katlit: error: data.jsonl line 3: not JSON\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "katlit: error: /x: Permission denied; choose"),
        (NotADirectoryError(20, "Not a directory", "/x"), 2, "katlit: error: /x: Not a directory; choose"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(), 0, ""),
        (SystemExit(3), 3, ""),
        (SystemExit("words"), 1, ""),
    ],
)
def test_exit_status(
    error: BaseException,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(katlit.cli, "_dispatch", lambda _: _raise(error))
    assert main([]) == status
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file", "/x"), ValueError("a fault of ours")])
def test_our_own_faults_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(katlit.cli, "_dispatch", lambda _: _raise(error))
    with pytest.raises(type(error)):
        main([])
