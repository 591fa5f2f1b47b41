"""LitServe on one worker: litserve_server.py PICKLE PORT FOLDER."""

import sys
from typing import Any

import joblib
import litserve
import pandas as pd


class Penguins(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.pipeline = joblib.load(sys.argv[1])

    def decode_request(self, request: dict[str, Any]) -> pd.DataFrame:
        return pd.DataFrame([request])

    def predict(self, x: pd.DataFrame) -> tuple[Any, Any]:
        return self.pipeline.predict(x)[0], self.pipeline.predict_proba(x)[0]

    def encode_response(self, output: tuple[Any, Any]) -> dict[str, Any]:
        label, probabilities = output
        named = dict(zip(self.pipeline.classes_, probabilities.tolist(), strict=True))
        return {"species": label, "probabilities": named}


if __name__ == "__main__":
    server = litserve.LitServer(Penguins(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
