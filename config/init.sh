#!/bin/bash
# The one-shot service airflow-init, as root: folders, secrets, database, user, connection.
# It may run at every start: what is there, stays as it is.
set -euo pipefail
cd /opt/airflow
umask 027

# A secret that is not there is made: 32 random bytes in URL-safe base64, as Fernet wants them.
secret() { # FILE GROUP
  [[ -s $1 ]] || head -c 32 /dev/urandom | base64 | tr '+/' '-_' >"$1"
  chown "$AIRFLOW_UID:$2" "$1" && chmod 640 "$1"
}
secret secrets/fernet_key 0
secret secrets/jwt_secret 0
secret secrets/api_secret_key 0
secret .local/model_signing.key "$API_GID"

# On Linux, folders that Docker made belong to root, and Airflow's user could not write into them.
mkdir -p logs models
chown "$AIRFLOW_UID:0" secrets .local
chmod 755 .local
find logs models ! -user "$AIRFLOW_UID" -exec chown "$AIRFLOW_UID:0" {} +
chmod u+rwx,go+rx logs models

umask 022
airflow() { setpriv --reuid="$AIRFLOW_UID" --regid=0 --clear-groups env HOME=/home/airflow airflow "$@"; }
airflow db migrate
airflow users create --username airflow --password airflow --role Admin \
  --firstname Air --lastname Flow --email airflow@example.com
if ! airflow connections get mysql_default &>/dev/null; then
  airflow connections add mysql_default --conn-type mysql --conn-host mysql --conn-port 3306 \
    --conn-schema "$MYSQL_DATABASE" --conn-login "$MYSQL_USER" --conn-password "$MYSQL_PASSWORD"
fi
# The DAG is in the list as soon as there is a list, not a scan of the folder later.
airflow dags reserialize
