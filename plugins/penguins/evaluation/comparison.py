"""Compare a new model with the one that serves, on the rows that neither was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penguins.evaluation.gate import Rival, wilson
from penguins.inference import ModelError, check_columns, load_model
from penguins.registry import NoModelError, Registry, RegistryError

if TYPE_CHECKING:
    import pyarrow as pa

    from penguins.evaluation.predictions import Predictions
    from penguins.evaluation.scores import Unseen


def serving_manifest(registry: Registry) -> tuple[dict[str, Any] | None, Rival]:
    """Return the serving version's manifest; or None, and why a new version is compared with nothing.

    There are no other reasons: whatever else goes wrong, fails the run.
    """
    version = None
    try:
        version = registry.current()
        manifest = registry.manifest(version)
        check_columns(manifest)
    except NoModelError:
        return None, Rival(outcome="first version", note="no version serves yet")
    except RegistryError as error:
        return None, Rival(version, note=f"the serving version cannot be trusted: {error}")
    except ModelError as error:
        note = f"this is the first version of this table; the serving version {version} was {error}"
        return None, Rival(version, outcome="first version", note=note)
    return manifest, Rival(version)


def compare_with_serving(registry: Registry, unseen: Unseen) -> Rival:
    """Compare with the serving version on the rows that neither was trained on."""
    # pyarrow and scikit-learn, which the tasks that only ask for the serving version's manifest do without.
    from penguins.evaluation.predictions import Predictions, compare_kept

    manifest, rival = serving_manifest(registry)
    if manifest is None:
        return rival
    version, new = manifest["version"], unseen.predictions
    if "predictions_sha256" not in manifest:
        return Rival(
            version, note=f"{version} was published before versions kept what a comparison needs; this one does"
        )
    try:
        kept = Predictions.from_bytes(registry.predictions(version))
    except RegistryError as error:
        return Rival(version, note=f"the serving version cannot be judged: {error}")
    comparison, unknown = compare_kept(new, kept)
    rows = unseen.rows.take(np.flatnonzero(unknown))
    return Rival(version, comparison=comparison, note=_on_new_rows(registry, manifest, rows, kept) if len(rows) else "")


def _on_new_rows(registry: Registry, manifest: dict[str, Any], rows: pa.Table, kept: Predictions) -> str:
    """Say so where the serving model is surely less often right on rows that are new to it than it was on its own.

    That is a word on the file, not on the new model: where a column was corrected, or spoilt, the row is new, and the
    serving model may yet know what is left of it.
    """
    from penguins.evaluation.scores import predicted_codes
    from penguins.training.pipeline import label_codes

    version = manifest["version"]
    try:
        pipeline = load_model(registry.read(version)[1], manifest).pipeline
    except (RegistryError, ModelError) as error:
        return f"on {len(rows):,} rows that are new to {version} it cannot be tried: {error}"
    right, before = predicted_codes(pipeline, rows) == label_codes(rows), kept.right[kept.judged]
    (low, _), (_, high) = wilson(int(before.sum()), len(before)), wilson(int(right.sum()), len(right))
    if high >= low:
        return ""
    return (
        f"{version} is right on {right.mean():.1%} of the {len(right):,} rows that are new to it, and was on "
        f"{before.mean():.1%} of its own: the new rows differ. Either the world has changed, or the file is wrong"
    )
