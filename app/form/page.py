"""GET /try: the page of the form. `page.html` is its template, `words.json` its words, `static/` what it loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from app.guards.bodies import MAX_VALUES
from app.schemas import MAX_RECORDS
from penguins.column_types import Column
from penguins.schema import FEATURES, TARGET, Number

HERE = Path(__file__).parent
WORDS: dict[str, dict[str, str]] = json.loads((HERE / "words.json").read_text(encoding="utf-8"))
# Styles and scripts come from files of this service alone, and the script asks this service alone.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Language",
}
MAX_RADIOS = 4  # a category of more values is a list to choose from


def add_form(app: FastAPI, *, max_body_bytes: int) -> None:
    """Add the page, and the files that it loads. No batch that it sends is larger than `max_body_bytes`."""
    pages = {language: _render(language, max_body_bytes) for language in WORDS}

    @app.get("/try", tags=["predict"], response_class=HTMLResponse)
    async def form(request: Request) -> HTMLResponse:
        """A form to predict with, for people, in English or Spanish as the browser prefers."""
        return HTMLResponse(pages[preferred(request.headers.get("accept-language", ""))], headers=HEADERS)

    # A report links to "try", wherever it is shown.
    @app.get("/models/{version}/try", include_in_schema=False)
    async def from_a_report() -> RedirectResponse:
        return RedirectResponse("../../try")

    app.mount("/try", StaticFiles(directory=HERE / "static"))


def preferred(accept_language: str) -> str:
    """Return the language of a page. Browsers list theirs in the order of preference: the weights add nothing."""
    tags = (item.partition(";")[0].strip().partition("-")[0].lower() for item in accept_language.split(","))
    return next((tag for tag in tags if tag in WORDS), "en")


def heading(column: Column) -> str:
    """Return a column's name as words, without its unit: Body mass for body_mass_g."""
    unit = column.unit.lower() if isinstance(column, Number) else ""
    words = (column.name.removesuffix(f"_{unit}") if unit else column.name).replace("_", " ").strip()
    return words[0].upper() + words[1:]


def _render(language: str, max_body_bytes: int) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    words = WORDS[language]
    columns = [_described(column) for column in FEATURES]
    return environment.get_template("page.html").render(
        language=language,
        words=words,
        target=TARGET,
        target_heading=heading(TARGET),
        columns=columns,
        # What the script needs to know.
        facts={
            "target": {"name": TARGET.name, "values": TARGET.values},
            "columns": [{k: v for k, v in c.items() if k not in ("description", "example")} for c in columns],
            "words": words,
            "most_records": MAX_RECORDS,
            "most_values": MAX_VALUES,
            "most_bytes": max_body_bytes,
        },
    )


def _described(column: Any) -> dict[str, Any]:
    described = {
        "name": column.name,
        "heading": heading(column),
        "description": column.description,
        "required": column.required,
        "example": column.example,
    }
    if not isinstance(column, Number):
        return described | {"kind": "radios" if len(column.values) <= MAX_RADIOS else "list", "values": column.values}
    # As the messages of a 422 write them.
    numbers = {name: f"{getattr(column, name):.15g}" for name in ("minimum", "maximum", "example")}
    return described | {"kind": "number", "unit": column.unit} | numbers
