#!/bin/bash
# The one-shot service airflow-init, as root: folders, secrets, database, user, connection.
# It is safe to run at every start: what exists stays as it is.
set -euo pipefail
cd /opt/airflow
umask 027

# Ends it here if others could log in with the tutorial's password, and says so if the API asks them for no key.
API_KEYS_FILE=$API_LOCK python config/exposure.py

# Creates a secret unless it exists: random bytes in URL-safe base64, 32 of them as Fernet requires.
secret() { # FILE [BYTES]
  [[ -s $1 ]] || head -c "${2:-32}" /dev/urandom | base64 | tr '+/' '-_' >"$1"
  chown "$AIRFLOW_UID:0" "$1" && chmod 640 "$1"
}
secret secrets/fernet_key
secret secrets/jwt_secret 48 # 64 characters in one line: PyJWT warns of less
secret secrets/api_secret_key

# The hashes of API keys lay beside the signing key once. If a start was cut short, or an older release has changed them
# since, the newer file counts.
if [[ -e .local/api_keys ]]; then
  cp --preserve .local/api_keys /srv/.local/moved
  mv --update /srv/.local/moved /srv/.local/api_keys
  rm -f .local/api_keys /srv/.local/moved
fi
chown -R "$AIRFLOW_UID:$API_GID" /srv/.local
chmod 750 /srv/.local

# On Linux, folders that Docker created belong to root, and Airflow's user could not write to them.
public=$(dirname "$MODEL_PUBLIC_KEYS_FILE")
mkdir -p logs models
chown "$AIRFLOW_UID:0" secrets .local
chown -R "$AIRFLOW_UID:$API_GID" "$public"
chmod 755 .local "$public"
find logs models ! -user "$AIRFLOW_UID" -exec chown "$AIRFLOW_UID:0" {} +
chmod u+rwx,go+rx logs models

# With docker-compose.journal.yaml: for the API's user, and its group, which Airflow's scheduler has there as well.
if [[ -d /journal ]]; then
  chown "$API_GID:$API_GID" /journal && chmod 2770 /journal
fi

# The key that signs models is Airflow's alone. The API has its public half.
if [[ -e .local/model_signing.key ]]; then
  chown "$AIRFLOW_UID:0" .local/model_signing.key && chmod 600 .local/model_signing.key
fi

umask 022
as_airflow=(setpriv --reuid="$AIRFLOW_UID" --regid=0 --clear-groups env HOME=/home/airflow)
"${as_airflow[@]}" python -m penguins.registry init
exec "${as_airflow[@]}" python config/init_airflow.py
