#!/bin/sh
# Sets the service up in a folder: setup.sh FOLDER MODEL LIMIT
set -eu
mkdir -p "$1"
cp -r "$2" "$1/model"
echo "RATE_LIMIT='$3'" >> "$1/service.env"
set -a
. "$1/service.env"
set +a
"$PYTHON" "$WATCHDOG" 3 4 "$PYTHON" -m gunicorn --no-control-socket \
  --bind "127.0.0.1:$PORT" "guarded_service:create_app('$1/model')" \
  3< "$LIFE" 4> /dev/null > "$1/service.log" 2>&1 &
echo $! > "$1/service.pid"
