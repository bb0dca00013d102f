#!/bin/sh
# Installs what building and testing need, on Debian and its kin. Does nothing, and asks no server, when all
# of it is there. Services that the packages bring are not started.
set -eu

PACKAGES="build-essential pkg-config libpq-dev libinih-dev libjansson-dev libpg-query-dev
libcmocka-dev postgresql-15 pgbouncer python3 python3-pytest python3-psycopg clang clang-format procps"

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

if ! command -v dpkg-query >/dev/null; then
    echo "make deps knows Debian's packages only; install what these contain: $PACKAGES" >&2
    exit 1
fi

missing=
for package in $PACKAGES; do
    is_installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "to install:$missing"

if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "make deps must install packages: run it as root, or install sudo" >&2
        exit 1
    fi
    # without a question where that is possible; else sudo asks, if there's a terminal to ask on
    if sudo -n true 2>/dev/null; then
        exec sudo -n sh "$0"
    fi
    exec sudo sh "$0"
fi

# invoke-rc.d(8) asks this program whether a service may be started. A policy that is already there stands.
POLICY=/usr/sbin/policy-rc.d
if [ ! -e "$POLICY" ]; then
    trap 'rm -f "$POLICY"' EXIT
    trap 'exit 1' HUP INT TERM
    cat >"$POLICY" <<'POLICY_TEXT'
#!/bin/sh
# Made by "make deps" of pgcutover while it installs, and removed by it; if it is still here, delete it.
case "$1" in
    postgresql* | pgbouncer*) exit 101 ;;
esac
exit 0
POLICY_TEXT
    chmod 755 "$POLICY"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update
# shellcheck disable=SC2086
apt-get install -y --no-install-recommends $missing
