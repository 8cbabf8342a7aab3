#!/usr/bin/env bash
# Makes the virtual environment that the Python oracles run in; a second call finds it done.
# usage: setup.sh DIR readers|full|hub     readers: for read_atlas.py and hub/client.py (0.7 GB); full: with torch and transformers
#                                          too (4.8 GB); hub: olah and JavaScript's client of the Hub, by npm (0.1 GB)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
usage="usage: setup.sh DIR readers|full|hub"
[ $# -eq 2 ] || { echo "$usage" >&2; exit 2; }
dir=$1
kind=$2
case $kind in
    readers) pins=$(sed '/^# full/,$d' "$here/requirements.txt") ;;
    full) pins=$(cat "$here/requirements.txt") ;;
    hub) pins=$(cat "$here/hub/olah.txt") ;;
    *) echo "$usage" >&2; exit 2 ;;
esac

# The stamp holds the pins that were installed, so that a changed list is installed again.
stamp="$dir/installed-$kind.txt"
wanted=$pins
[ "$kind" != hub ] || wanted+=$(cat "$here/hub/package-lock.json")
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

if [ "$kind" = hub ]; then
    mkdir -p "$dir"
    cp "$here/hub/package.json" "$here/hub/package-lock.json" "$dir"
    npm ci --prefix "$dir" --omit=optional --silent --no-audit --no-fund
fi
[ -x "$dir/bin/python" ] || "${PYTHON:-python3}" -m venv "$dir"
# --no-deps: torch asks for more of CUDA than it needs to be imported (see requirements.txt).
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r <(printf '%s\n' "$pins")
printf '%s\n' "$wanted" >"$stamp"
