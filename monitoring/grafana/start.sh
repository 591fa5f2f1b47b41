#!/bin/sh
# Who may look, and then Grafana itself, which is the command given. It keeps nothing, so this holds at each start.
set -eu

# On this machine's own addresses, whoever reaches the page may look. The same addresses as in config/exposure.py.
case "${BIND_ADDRESS:-127.0.0.1}" in
  localhost | ::1 | '[::1]') anonymous=true ;;
  127.*[!0-9.]*) anonymous=false ;; # a name that only begins like one
  127.*) anonymous=true ;;
  *) anonymous=false ;;
esac

# Without a password of one's own nobody needs one: it is random, and never stored.
if [ -z "${GRAFANA_PASSWORD:-}" ]; then
  GRAFANA_PASSWORD=$(head -c 24 /dev/urandom | base64)
  if [ $anonymous = false ]; then
    echo "BIND_ADDRESS is $BIND_ADDRESS: nobody can look without a password. Set GRAFANA_PASSWORD in .env, the" \
      "password of Grafana's user admin, and start again. See docs/monitoring.md." >&2
  fi
fi

# The default of this key is public as well.
GF_SECURITY_SECRET_KEY=$(head -c 24 /dev/urandom | base64)
export GF_SECURITY_SECRET_KEY GF_SECURITY_ADMIN_PASSWORD="$GRAFANA_PASSWORD" GF_AUTH_ANONYMOUS_ENABLED=$anonymous
exec "$@"
