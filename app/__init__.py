"""The service that serves predictions from the published model."""

SHARED_FOLDER = "API_SHARED_FOLDER"  # the environment variable that names the folder that several workers share
