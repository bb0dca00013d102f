#!/bin/bash
# Proves that the README's first steps work on a bare Debian: debootstrap into a folder, the committed HEAD
# cloned there, and in a chroot
#     build   make deps, make all
#     demo    make demo, from nothing
#     full    make deps, make demo, make test
# Nothing stays behind but a tarball of the bare system in the cache, which is a week long good for.
set -euo pipefail

RELEASE=bookworm
HERE=$(cd "$(dirname "$0")/../.." && pwd)
CACHE=${XDG_CACHE_HOME:-/var/cache}/pgcutover
CACHE_DAYS=7
# what the README asks for
PREREQUISITES=make,git,ca-certificates
ROOT=

fail() {
    echo "test-fresh: $*" >&2
    exit 1
}

say() {
    echo "test-fresh: $*"
}

# Ends what was started inside and is still there: the chroot can't be unmounted under its feet.
end_processes() {
    local link pid
    for link in /proc/[0-9]*/root; do
        if [ "$(readlink "$link" 2>/dev/null)" = "$ROOT" ]; then
            pid=${link#/proc/}
            kill -KILL "${pid%/root}" 2>/dev/null || true
        fi
    done
}

clean_up() {
    local status=$? mounted
    trap - EXIT HUP INT TERM
    if [ -n "$ROOT" ]; then
        end_processes
        for mounted in dev/shm dev/pts dev proc; do
            if mountpoint -q "$ROOT/$mounted"; then
                umount "$ROOT/$mounted" || umount -l "$ROOT/$mounted" || status=1
            fi
        done
        rm -rf --one-file-system "$ROOT" || status=1
    fi
    exit $status
}

# One line of sources.list for each part of the release that this machine's apt takes from somewhere.
apt_sources() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v release="$RELEASE" '
            $3 == "main" && ($2 == release || $2 == release "-updates" || $2 ~ "^" release "-security")
            ' | sort -u
}

make_bare_system() {
    local mirror
    mirror=$(apt_sources | awk -v release="$RELEASE" '$2 == release { print $1; exit }')
    [ -n "$mirror" ] || fail "this machine's apt has no source of Debian $RELEASE to take a mirror from"
    say "debootstrap $RELEASE"
    debootstrap --variant=minbase --include="$PREREQUISITES" "$RELEASE" "$ROOT" "$mirror"
    rm -rf "$ROOT/var/cache/apt/archives"/*.deb
    mkdir -p "$CACHE"
    tar -C "$ROOT" -cf "$CACHE/.$$.tar" . && mv "$CACHE/.$$.tar" "$CACHE/$RELEASE.tar"
}

get_bare_system() {
    if [ -n "$(find "$CACHE/$RELEASE.tar" -mtime "-$CACHE_DAYS" 2>/dev/null)" ]; then
        say "bare system from $CACHE/$RELEASE.tar"
        tar -C "$ROOT" -xf "$CACHE/$RELEASE.tar"
    else
        make_bare_system
    fi
}

# How this machine reaches the archive: sources, proxies, name service, certificates of its own.
copy_network() {
    apt_sources | awk '{ print "deb", $1, $2, $3 }' >"$ROOT/etc/apt/sources.list"
    apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries)' \
        >"$ROOT/etc/apt/apt.conf.d/90test-fresh" || true
    cp -L /etc/resolv.conf /etc/hosts "$ROOT/etc/"
    if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
        cp /usr/local/share/ca-certificates/*.crt "$ROOT/usr/local/share/ca-certificates/"
        inside update-ca-certificates >/dev/null
    fi
}

mount_kernel() {
    mount -t proc proc "$ROOT/proc" 2>/dev/null || mount --bind /proc "$ROOT/proc"
    mount --bind /dev "$ROOT/dev"
    mount --bind /dev/pts "$ROOT/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$ROOT/dev/shm"
}

inside() {
    local -a env=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
                  HOME=/root LANG=C.UTF-8 "TERM=${TERM:-dumb}")
    local name
    for name in http_proxy https_proxy no_proxy; do
        [ -z "${!name:-}" ] || env+=("$name=${!name}")
    done
    env -i "${env[@]}" chroot "$ROOT" "$@"
}

make_inside() {
    say "make $*"
    inside make -C /srv/pgcutover "$@"
}

case "${1:-}" in
    build) targets="deps all" ;;
    demo) targets="demo" ;;
    full) targets="deps demo test" ;;
    *) fail "usage: test-fresh.sh build|demo|full" ;;
esac
[ "$(id -u)" -eq 0 ] || fail "needs root, for chroot and mount"
git -C "$HERE" rev-parse -q --verify HEAD >/dev/null || fail "nothing is committed in $HERE yet"
if ! command -v debootstrap >/dev/null; then
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap
fi

trap clean_up EXIT
trap 'exit 130' HUP INT TERM
ROOT=$(mktemp -d "${TMPDIR:-/var/tmp}/pgcutover-fresh.XXXXXX")
ROOT=$(readlink -f "$ROOT")
chmod 755 "$ROOT"

get_bare_system
mount_kernel
copy_network
git clone -q --no-hardlinks "$HERE" "$ROOT/srv/pgcutover"
say "commit $(git -C "$HERE" rev-parse --short HEAD)"
for target in $targets; do
    make_inside "$target"
done
say "done: $targets"
