"""Compare a new model with the serving model, on the rows that neither was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penguins.compatibility import ModelError, check_columns
from penguins.evaluation.accuracy import wilson
from penguins.evaluation.gate import Baseline
from penguins.inference import load_model
from penguins.registry import NoModelError, Registry, RegistryError

if TYPE_CHECKING:
    import pyarrow as pa

    from penguins.evaluation.predictions import Predictions
    from penguins.evaluation.scores import Unseen


def serving_manifest(registry: Registry, *, ignore_untrusted: bool = False) -> tuple[dict[str, Any] | None, Baseline]:
    """Return the serving version's manifest; or None, and in the baseline why there is no comparison.

    Raises
    ------
    RegistryError
        If the version that serves cannot be trusted. Without this, whoever damages it would switch the gate off. With
        `ignore_untrusted` there is no comparison instead.
    """
    version = None
    try:
        version = registry.current()
        manifest = registry.manifest(version)
        check_columns(manifest)
    except NoModelError:
        return None, Baseline(outcome="first version", note="no version serves yet")
    except RegistryError as error:
        return None, Baseline(version, note=_untrusted(error, ignore=ignore_untrusted))
    except ModelError:
        note = f"this is the first version of this table; the serving version {version} was trained on another table"
        return None, Baseline(version, outcome="first version", note=note)
    return manifest, Baseline(version)


def _untrusted(error: RegistryError, *, ignore: bool) -> str:
    if not ignore:
        raise RegistryError(
            "what serves cannot be trusted, so nothing can be compared with it, and nothing was published: "
            f"{error} To go on without a comparison, trigger the run with ignore_untrusted_serving."
        ) from error
    return f"the serving version cannot be trusted: {error}"


def compare_with_serving(registry: Registry, unseen: Unseen, *, ignore_untrusted: bool = False) -> Baseline:
    """Compare with the serving version on the rows that neither was trained on. Raises as `serving_manifest`."""
    # Imports pyarrow and scikit-learn, which tasks that only read the serving version's manifest do not need.
    from penguins.evaluation.predictions import Predictions, compare_predictions

    manifest, baseline = serving_manifest(registry, ignore_untrusted=ignore_untrusted)
    if manifest is None:
        return baseline
    version, new = manifest["version"], unseen.predictions
    if "predictions_sha256" not in manifest:
        note = f"{version} was published before versions kept the predictions that a comparison needs; this one does"
        return Baseline(version, note=note)
    try:
        kept = Predictions.from_bytes(registry.predictions(version))
    except RegistryError as error:
        return Baseline(version, note=_untrusted(error, ignore=ignore_untrusted))
    comparison, unknown = compare_predictions(new, kept)
    rows = unseen.rows.take(np.flatnonzero(unknown))
    return Baseline(
        version, comparison=comparison, note=_warn_of_new_rows(registry, manifest, rows, kept) if len(rows) else ""
    )


def _warn_of_new_rows(registry: Registry, manifest: dict[str, Any], rows: pa.Table, kept: Predictions) -> str:
    """Return a warning if the serving model is significantly less accurate on rows that are new to it than on its own.

    It concerns the file, not the new model: a row in which a value was corrected or corrupted is new, but the serving
    model may still know the rest of it.
    """
    from penguins.evaluation.scores import predicted_codes
    from penguins.training.rows import label_codes

    version = manifest["version"]
    try:
        pipeline = load_model(registry.read(version)[1], manifest).pipeline
    except (RegistryError, ModelError) as error:
        return f"{version} cannot be tested on the {len(rows):,} rows that are new to it: {error}"
    right, before = predicted_codes(pipeline, rows) == label_codes(rows), kept.right[kept.judged]
    (low, _), (_, high) = wilson(int(before.sum()), len(before)), wilson(int(right.sum()), len(right))
    if high >= low:
        return ""
    return (
        f"{version} is right on {right.mean():.1%} of the {len(right):,} rows that are new to it, but on "
        f"{before.mean():.1%} of its own: the new rows differ. Either the world has changed, or the file is wrong"
    )
