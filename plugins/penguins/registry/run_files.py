"""The files that a run's tasks hand on. Each goes by its sha256, which Airflow's database keeps.

Whoever may write to the models volume could otherwise change what a model is trained or judged on.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penguins.files import read_file, replace_file
from penguins.registry.errors import RegistryError, reason
from penguins.registry.store import Registry

if TYPE_CHECKING:
    import pyarrow as pa

MAX_FILE_BYTES = 2**34  # ten million rows of thirty columns have a tenth of it

_MAX_NAME_BYTES = 200  # file systems take 255, some that encrypt 143


class RunFiles:
    """The files in a run's folder.

    Parameters
    ----------
    folder : Path
        From `run_folder`.
    sums : mapping of str to str
        By name, the sha256 of the files that other tasks have written.
    """

    def __init__(self, folder: Path, sums: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.sums = dict(sums or {})

    def write(self, name: str, content: bytes) -> None:
        """Write a file in the place of any other, and note its sha256 in `sums`."""
        try:
            replace_file(self.folder / name, content, mode=stat.S_IRUSR | stat.S_IWUSR)
        except OSError as error:
            raise RegistryError(f"{self.folder / name} cannot be written: {reason(error)}") from error
        self.sums[name] = hashlib.sha256(content).hexdigest()

    def read(self, name: str) -> bytes:
        """Return a file as it was written. RegistryError if it is another one now."""
        try:
            content = read_file(self.folder / name, limit=MAX_FILE_BYTES)
        except OSError as error:
            raise RegistryError(f"{self.folder / name} cannot be read: {reason(error)}. Run it again.") from error
        if (found := hashlib.sha256(content).hexdigest()) != self.sums[name]:
            raise RegistryError(
                f"the sha256 of {self.folder / name} is {found}, but the task before wrote {self.sums[name]}. Somebody "
                "has changed it. Run it again."
            )
        return content

    def write_json(self, name: str, value: Any) -> None:
        """Write what JSON can hold."""
        self.write(name, json.dumps(value).encode())

    def read_json(self, name: str) -> Any:
        """Return a JSON file's value. RegistryError as `read`."""
        return json.loads(self.read(name))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table as Parquet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        self.write(name, sink.getvalue().to_pybytes())

    def read_table(self, name: str) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pq.read_table(pa.BufferReader(self.read(name)))

    def remove(self) -> None:
        """Remove the run's folder: the version has all of it."""
        shutil.rmtree(self.folder)


def run_folder(root: Path, run_id: str) -> Path:
    """Return the folder for a run's working files. It is created if necessary."""
    # Airflow allows any run id; here it must stay a single folder name. Where it cannot, a hash follows.
    name = re.sub(r"[^\w.:+-]", "_", run_id).lstrip(".") or "_"
    if name != run_id or len(name.encode()) > _MAX_NAME_BYTES:
        digest = hashlib.sha256(run_id.encode(errors="surrogatepass")).hexdigest()[:16]
        name = f"{name.encode()[: _MAX_NAME_BYTES - len(digest) - 1].decode(errors='ignore')}-{digest}"
    runs = root / "runs"
    for folder in (runs, runs / name):
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            raise RegistryError(f"{folder} is a symbolic link, which is not written through. Remove it.")
    return runs / name


def remove_run_folders(root: Path) -> None:
    """Remove what finished and failed runs left behind."""
    shutil.rmtree(root / "runs", ignore_errors=True)


def published_before(registry: Registry, run_id: str, sha256: str, *, activate: bool) -> dict[str, Any] | None:
    """Return the manifest of the version that a run has published of this pickle, or None.

    A publish that was killed in its last step may have left the pointer where it was: with `activate`, it is moved.
    """
    for manifest in registry.signed():
        if (manifest["dag_run_id"], manifest["sha256"]) == (run_id, sha256):
            break
    else:
        return None
    try:
        serving = registry.current()
    except RegistryError:
        serving = ""
    if activate and serving < manifest["version"]:
        registry.activate(manifest["version"])
    return manifest
