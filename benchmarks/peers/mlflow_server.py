"""MLflow on one worker: mlflow_server.py PICKLE PORT FOLDER."""

import os
import sys
from pathlib import Path

import joblib
import mlflow.sklearn

pickled, port, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]) / "model"
mlflow.sklearn.save_model(
    joblib.load(pickled),
    folder,
    serialization_format="cloudpickle",
    pyfunc_predict_fn="predict_proba",
    pip_requirements=[],
)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
command = ["mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local", "--workers", "1"]
os.execvp("mlflow", [*command, "--host", "127.0.0.1", "--port", port])
