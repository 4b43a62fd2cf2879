"""The secret that a server makes for itself."""

import base64
import logging
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from server.settings_load import SettingsError
from server.settings_secret import load_or_create_secret

ROOT = Path(__file__).parents[2]
STARTED_TOGETHER = """
import sys
from pathlib import Path
from server.settings_secret import load_or_create_secret
print("ready", flush=True)
sys.stdin.readline()
print(load_or_create_secret(Path(sys.argv[1])), flush=True)
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_once_of_32_random_bytes_that_only_the_owner_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = load_or_create_secret(tmp_path / "a" / "var")
    assert load_or_create_secret(tmp_path / "a" / "var") == first
    assert load_or_create_secret(tmp_path / "b") != first
    assert len(base64.urlsafe_b64decode(first + "=")) == 32
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["auth.secret"]
    assert mode_of(tmp_path / "b" / "auth.secret") == 0o600
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert first not in caplog.text


def test_processes_that_start_together_get_the_same_one(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STARTED_TOGETHER, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(8)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = {process.communicate(timeout=30)[0].strip() for process in processes}
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert answers == {(tmp_path / "auth.secret").read_text().strip()}
    assert [path.name for path in tmp_path.iterdir()] == ["auth.secret"]


def test_the_loser_of_a_race_takes_the_secret_of_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process puts its secret in place after this one saw that there was none."""
    secret = "s" * 40

    def fsync(_descriptor: int) -> None:
        (tmp_path / "auth.secret").write_text(secret)
        (tmp_path / "auth.secret").chmod(0o600)

    monkeypatch.setattr(os, "fsync", fsync)
    assert load_or_create_secret(tmp_path) == secret
    assert [path.name for path in tmp_path.iterdir()] == ["auth.secret"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_file_that_others_could_read_is_closed_to_them_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    path = tmp_path / "auth.secret"
    path.write_text("s" * 40)
    path.chmod(mode)
    assert load_or_create_secret(tmp_path) == "s" * 40
    assert mode_of(path) == 0o600
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(f"mode {mode:o}", record.getMessage())
    assert "sss" not in caplog.text


def test_a_file_of_one_s_own_is_taken_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "auth.secret"
    path.write_text("s" * 40 + "\n")
    path.chmod(0o400)
    assert load_or_create_secret(tmp_path) == "s" * 40
    assert mode_of(path) == 0o400
    assert caplog.records == []


@pytest.mark.parametrize("content", [b"", b"\n", b"s" * 31, b"\xff" * 40])
def test_a_file_that_holds_no_secret_is_an_error_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "auth.secret").write_bytes(content)
    (tmp_path / "auth.secret").chmod(0o600)
    with pytest.raises(SettingsError) as error:
        load_or_create_secret(tmp_path)
    (problem,) = error.value.problems
    assert problem.key == "auth.secret"
    assert str(tmp_path / "auth.secret") in problem.message
    assert "TERTULIA_AUTH__SECRET" in problem.message
    assert "sss" not in problem.message


@pytest.mark.parametrize(
    "obstacle", ["a file for the directory", "a directory for the file", "a link to nothing"]
)
def test_a_place_that_cannot_be_used_is_an_error_with_a_remedy(tmp_path: Path, obstacle: str) -> None:
    directory = tmp_path / "var"
    if obstacle == "a file for the directory":
        directory.write_text("")
    elif obstacle == "a directory for the file":
        (directory / "auth.secret").mkdir(parents=True)
    else:
        directory.mkdir()
        (directory / "auth.secret").symlink_to("nowhere")
    with pytest.raises(SettingsError) as error:
        load_or_create_secret(directory)
    (problem,) = error.value.problems
    assert problem.key == "auth.secret"
    assert "TERTULIA_AUTH__SECRET" in problem.message
