"""What the service reads from its environment."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

SHARED_FOLDER = "API_SHARED_FOLDER"  # the variable that names the folder the workers share, if there are several


class Settings(BaseSettings):
    """Environment variables with the prefix `API_`. The registry reads `MODELS_DIR` and `MODEL_SIGNING_KEY_FILE`."""

    model_config = SettingsConfigDict(env_prefix="API_")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8989, description="Port to listen on.")
    workers: int = Field(1, ge=1, description="Processes to serve from. Each needs a core of its own to be worth it.")
    poll_seconds: float = Field(0.5, gt=0, description="How often the pointer `current` is looked at.")
    retry_seconds: float = Field(10, gt=0, description="How often a rejected version is tried again.")
    max_body_bytes: int = Field(4 * 2**20, gt=0, description="Largest body of a request: fits 10,000 records.")
