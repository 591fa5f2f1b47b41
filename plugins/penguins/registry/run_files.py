"""The files that a run's tasks hand on. Each goes by its sha256, which Airflow's database keeps.

Whoever may write to the models volume could otherwise change what a model is trained or judged on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penguins.files import read_file, replace_file
from penguins.registry.errors import RegistryError, reason

if TYPE_CHECKING:
    import pyarrow as pa

MAX_FILE_BYTES = 2**34  # ten million rows of thirty columns have a tenth of it


class RunFiles:
    """The files in a run's folder.

    Parameters
    ----------
    folder : Path
        From `Registry.run_folder`.
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
        self.write(name, json.dumps(value).encode())

    def read_json(self, name: str) -> Any:
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
