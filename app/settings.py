"""The settings that the service reads from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Origin = Annotated[str, StringConstraints(pattern=r"^(\*|https?://[^/,\s]+)$")]


def _at_commas(value: str | list[str]) -> list[str]:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class Settings(BaseSettings):
    """Environment variables with the prefix `API_`. The registry reads `MODELS_DIR` and `MODEL_PUBLIC_KEYS_FILE`."""

    model_config = SettingsConfigDict(env_prefix="API_", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8989, description="Port to listen on.")
    workers: int = Field(1, ge=1, description="Number of worker processes. Each only pays off with a core of its own.")
    poll_seconds: float = Field(0.5, gt=0, description="Seconds between checks of the pointer `current`.")
    retry_seconds: float = Field(10, gt=0, description="Seconds between retries of a rejected version.")
    max_body_bytes: int = Field(4 * 2**20, gt=0, description="Largest body with many records, in bytes: 10,000 fit.")
    cors_origins: Annotated[list[Origin], NoDecode, BeforeValidator(_at_commas)] = Field(
        [],
        description="Origins whose pages may ask in a browser, such as https://a.example,https://b.example; * is any.",
    )
    root_path: str = Field(
        "", pattern=r"^(/[^/?#\s]+)*$", description="The prefix of the path behind a proxy, such as /penguins."
    )
    keys_file: Path | None = Field(None, description="The file of the API keys. Without one, no key is asked for.")
    journal_url: str | None = Field(
        None,
        description="The journal's database, such as sqlite:////journal/journal.db. Without one, nothing is kept.",
    )
    journal_days: int = Field(30, ge=1, description="Days for which the journal's rows are kept.")
    journal_rows: int = Field(
        1_000_000, ge=1, description="Predictions, and labels, that are kept. The oldest go first."
    )
    metrics_port: int | None = Field(None, ge=1, le=65535, description="Port of /metrics, if not that of all else.")
