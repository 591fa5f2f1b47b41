"""What is wrong in `plugins/penguins/schema.py`, in one line instead of a traceback."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from types import TracebackType

from launcher import ROOT
from penguins.column_types import SchemaError

SHOWN = "plugins/penguins/schema.py"
SCHEMA = ROOT / SHOWN


def mistake() -> str | None:
    """Import the declaration. Return what is wrong in it: file, line, column, what came and what is accepted."""
    try:
        importlib.import_module("penguins.schema")
    except SyntaxError as error:
        if error.filename != str(SCHEMA):
            raise
        return f"{SHOWN}, line {error.lineno}: {error.msg}"
    except Exception as error:
        frame = _frame_in_schema(error.__traceback__)
        if frame is None:
            raise
        return _worded(error, frame)
    return None


def _frame_in_schema(traceback: TracebackType | None) -> TracebackType | None:
    """Return the last step of a traceback that stands in the declaration itself, not in what it calls."""
    found = None
    while traceback:
        if traceback.tb_frame.f_code.co_filename == str(SCHEMA):
            found = traceback
        traceback = traceback.tb_next
    return found


def _worded(error: Exception, frame: TracebackType) -> str:
    nodes = list(ast.walk(ast.parse(SCHEMA.read_text(encoding="utf-8"))))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    line = frame.tb_lineno
    column: str | None = None
    if isinstance(error, SchemaError):
        message, column = error.message, error.column
        # A check of the whole declaration comes after it, and does not know where what it complains of stands.
        places = [call.lineno for call in calls if column and _name(call) == column]
        assignments = [node for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign)]
        places += [node.lineno for node in assignments if error.setting in _assigned(node)]
        if line not in places:
            line = max(places, default=line)
    else:
        message = f"{type(error).__name__}: {error}"
        for call in calls:
            if call.lineno == line and isinstance(error, TypeError) and isinstance(call.func, ast.Name):
                column = _name(call)
                if dataclasses.is_dataclass(kind := frame.tb_frame.f_globals.get(call.func.id)):
                    message += f". A {call.func.id} takes {', '.join(field.name for field in dataclasses.fields(kind))}"
    return f"{SHOWN}, line {line}{f', column {column!r}' if column else ''}: {message}"


def _name(call: ast.Call) -> str | None:
    """Return the name that a call declares: `Number(name="wing", …)` declares wing."""
    named = (k.value for k in call.keywords if k.arg == "name")
    return next((str(value.value) for value in named if isinstance(value, ast.Constant)), None)


def _assigned(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]
