"""MLServer on one worker: mlserver_server.py PICKLE PORT FOLDER."""

import json
import os
import sys
from pathlib import Path

pickled, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
(folder / "settings.json").write_text(
    json.dumps(
        {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": port + 1,
            "metrics_port": port + 2,
            "parallel_workers": 0,
            "debug": False,
        }
    )
)
(folder / "model-settings.json").write_text(
    json.dumps({"name": "penguins", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": pickled}})
)
os.execvp("mlserver", ["mlserver", "start", str(folder)])
