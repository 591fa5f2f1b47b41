"""The folders that a run may read its file from. Whoever may trigger a run must not have it read just anything."""

from __future__ import annotations

import os
from pathlib import Path

from penguins.data.text import SourceError


def file_below(path: str, *folders: Path) -> Path:
    """Return the file that a path means, with all links resolved.

    Parameters
    ----------
    path : str
        Absolute, or relative to the first of the folders.
    folders : Path
        Below which the file may lie. `DATA_FOLDERS` in the environment names others, separated by colons.

    Raises
    ------
    SourceError
        If it lies elsewhere. What is there is not looked at.
    """
    others = [Path(folder) for folder in os.environ.get("DATA_FOLDERS", "").split(os.pathsep) if folder]
    allowed = [folder.resolve() for folder in (*folders, *others)]
    file = (folders[0] / path).resolve()
    if not any(file.is_relative_to(folder) for folder in allowed):
        raise SourceError(
            f"csv_path is {path[:200]!r}, which is not below {', '.join(map(str, allowed))}. Put the file there, or "
            "name its folder in the environment variable DATA_FOLDERS of the service that runs the tasks."
        )
    return file
