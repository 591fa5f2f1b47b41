"""A mistake in the declaration, as `make run` says it: the line and the column, in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from support import ROOT

COLUMN = "column 'culmen_length_mm'"
# What is replaced in the penguins' declaration, by what, where that is, and what is said about it.
MISTAKES: tuple[tuple[str, str, str, str], ...] = (
    ("minimum=10,", "minimum=1000,", COLUMN, "minimum is 1000 and maximum 100; the minimum must be below"),
    ("minimum=10,", 'minimum="10",', COLUMN, "minimum is '10'; it must be a number"),
    ("minimum=10,", "minimun=10,", COLUMN, "unexpected keyword argument 'minimun'. A Number takes name, description"),
    ("minimum=10,", "", COLUMN, "missing 1 required keyword-only argument: 'minimum'"),
    ('name="culmen_length_mm"', 'name="culmen (mm)"', "column 'culmen (mm)'", "it must be a letter, then up to 62"),
    ('name="culmen_length_mm"', 'name="Island"', "column 'Island'", "the name is taken, by another column"),
    ("minimum=10,", 'minimum=10, header="island",', COLUMN, "another column has the header 'island' as well"),
    ('"FEMALE", "MALE"', '"FEMALE", "NA"', "column 'sex'", "but MISSING, which is ('NA', '.', ''), holds ['NA']"),
    ('TARGET_NAME = "species"', 'TARGET_NAME = "body"', "", "TARGET_NAME is 'body'; it must be the name of a Category"),
    ('MISSING = ("NA", ".", "")', 'MISSING = ("NA")', "", "MISSING is 'NA'; this must be a tuple: is a comma missing"),
    ("minimum=10,", "minimum=10", "", "invalid syntax. Perhaps you forgot a comma?"),
    ("minimum=10,", "minimum=TEN,", "", "NameError: name 'TEN' is not defined"),
)
# Looks at one declaration after the other, in a copy of the project.
LOOK = """
import json, pathlib, sys
from launcher.declaration import SCHEMA, mistake

def said(text):
    SCHEMA.write_text(text, encoding="utf-8")
    sys.modules.pop("penguins.schema", None)
    return mistake()

print(json.dumps([said(text) for text in json.load(sys.stdin)]))
"""


def test_a_mistake_is_said_in_one_line_with_its_place_and_a_good_declaration_is_none(tmp_path: Path) -> None:
    for name in ("launcher", "plugins"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    good = (ROOT / "plugins" / "penguins" / "schema.py").read_text(encoding="utf-8")
    wrong = [good.replace(old, new, 1) for old, new, _, _ in MISTAKES]
    assert good not in wrong
    run = subprocess.run(
        [sys.executable, "-B", "-c", LOOK],  # without compiled files, whose times cannot tell these apart
        cwd=tmp_path,
        input=json.dumps([good, *wrong]),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    of_good, *of_wrong = json.loads(run.stdout)
    assert of_good is None
    for (old, _, column, message), said in zip(MISTAKES, of_wrong, strict=True):
        place = old if not column else 'name="sex"' if "sex" in column else 'name="culmen_length_mm"'
        # A column stands in the line where its declaration begins, one above its name.
        line = good[: good.index(place)].count("\n") + (0 if column else 1)
        assert said.startswith(f"plugins/penguins/schema.py, line {line}{', ' + column if column else ''}: "), said
        assert message in said
        assert "\n" not in said
