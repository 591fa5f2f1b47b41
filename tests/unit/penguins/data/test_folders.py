"""Where csv_path may lead, and what a message tells of a file that is none of the table's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penguins.data.folders import file_below
from penguins.data.source import check_source
from penguins.data.text import SourceError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The DAG's folder, the one for files that arrive, and one beside them with a secret."""
    found = tmp_path / "dags", tmp_path / "models" / "incoming", tmp_path / ".local"
    for folder in found:
        folder.mkdir(parents=True)
        (folder / "file").write_text("U1NlY3JldCE=")
    (found[0] / "link").symlink_to(found[2] / "file")
    (found[0] / "folder").symlink_to(found[2])
    return found


def test_files_below_the_folders_are_taken(folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dags, incoming, local = folders
    for path in ("file", str(dags / "file"), "../models/incoming/file", str(incoming / "file"), "not/yet/there.csv"):
        assert file_below(path, dags, incoming).is_absolute()
    monkeypatch.setenv("DATA_FOLDERS", f"/nowhere{os.pathsep}{local}")
    assert file_below(str(local / "file"), dags, incoming) == local / "file"
    assert file_below("link", dags, incoming) == local / "file"


def test_files_elsewhere_are_refused_unseen(folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dags, incoming, local = folders
    monkeypatch.setenv("DATA_FOLDERS", "")
    for path in ("../.local/file", str(local / "file"), "link", "folder/file", "/dev/zero", "/", "..", "../dagsx/file"):
        with pytest.raises(SourceError, match=r"not below .*DATA_FOLDERS") as refused:
            file_below(path, dags, incoming)
        assert "U1Nl" not in str(refused.value)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, said in ((tmp_path / "fifo", "a FIFO"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(SourceError, match=said):
            check_source(path, test_size=0.2)


def test_a_first_line_that_is_no_header_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "file.csv"
    for line in ("U1NlY3JldCE=", "root:x:0:0,secret", "species," + "secret," * 1000):
        file.write_text(f"{line}\n")
        with pytest.raises(SourceError, match=r"the header is not that of this table: [01] of its 7 names") as refused:
            check_source(file, test_size=0.2)
        assert "ecret" not in str(refused.value)
