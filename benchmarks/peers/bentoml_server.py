"""BentoML on one worker: bentoml_server.py PICKLE PORT FOLDER."""

import os
import sys
from pathlib import Path

SERVICE = """
import os

import bentoml
import joblib
import pandas as pd


@bentoml.service(workers=1)
class Penguins:
    def __init__(self) -> None:
        self.pipeline = joblib.load(os.environ["PICKLE"])

    @bentoml.api
    def predict(self, record: dict) -> dict:
        frame = pd.DataFrame([record])
        label, probabilities = self.pipeline.predict(frame)[0], self.pipeline.predict_proba(frame)[0]
        return {"species": label, "probabilities": dict(zip(self.pipeline.classes_, probabilities.tolist()))}
"""

pickled, port, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
(folder / "service.py").write_text(SERVICE)
os.environ |= {"PICKLE": pickled, "BENTOML_DO_NOT_TRACK": "1"}
os.chdir(folder)
os.execvp("bentoml", ["bentoml", "serve", "service:Penguins", "--host", "127.0.0.1", "--port", port])
