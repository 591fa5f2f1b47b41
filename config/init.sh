#!/bin/bash
# The one-shot service airflow-init, as root: folders, secrets, database, user, connection.
# It is safe to run at every start: what exists stays as it is.
set -euo pipefail
cd /opt/airflow
umask 027

# Ends it here if others could log in with the tutorial's password, and says so if the API asks them for no key.
API_KEYS_FILE=$API_LOCK python config/exposure.py

# Creates a secret unless it exists: random bytes in URL-safe base64, 32 of them as Fernet requires.
secret() { # FILE GROUP [BYTES]
  [[ -s $1 ]] || head -c "${3:-32}" /dev/urandom | base64 | tr '+/' '-_' >"$1"
  chown "$AIRFLOW_UID:$2" "$1" && chmod 640 "$1"
}
secret secrets/fernet_key 0
secret secrets/jwt_secret 0 48 # 64 characters in one line: PyJWT warns of less
secret secrets/api_secret_key 0
secret .local/model_signing.key "$API_GID"

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
mkdir -p logs models
chown "$AIRFLOW_UID:0" secrets .local public-keys
chmod 755 .local public-keys
find logs models ! -user "$AIRFLOW_UID" -exec chown "$AIRFLOW_UID:0" {} +
chmod u+rwx,go+rx logs models

# With docker-compose.journal.yaml: the API writes, and Airflow's group, which new files get as well, may read.
if [[ -d /journal ]]; then
  chown "$API_GID:0" /journal && chmod 2750 /journal
fi

umask 022
exec setpriv --reuid="$AIRFLOW_UID" --regid=0 --clear-groups env HOME=/home/airflow python config/init_airflow.py
