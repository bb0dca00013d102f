#!/bin/sh
# PgBouncer driven by commands: what [traffic] driver = command calls in the tests.
set -eu

console() {
    psql -X -q -A -t -v ON_ERROR_STOP=1 -d "$POOLER_ADMIN" -c "$1"
}

column() { # of the row of shop in SHOW DATABASES
    psql -X -q -A -F '|' -d "$POOLER_ADMIN" -c 'SHOW DATABASES' | awk -F '|' -v want="$1" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == want) at = i }
        $1 == "shop" { print $at }'
}

point() {
    printf 'shop = %s\nshop_v2 = %s\n' "$1" "$POOLER_GREEN" >"$POOLER_FILE.new"
    chmod 644 "$POOLER_FILE.new"
    mv "$POOLER_FILE.new" "$POOLER_FILE"
    console RELOAD
}

case "$1" in
    probe)
        case "$(column port)" in
            "$POOLER_PORT_BLUE") echo blue ;;
            "$POOLER_PORT_GREEN") echo green ;;
            *) exit 1 ;;
        esac
        ;;
    prepare) console 'SET server_login_retry=0' ;;
    hold) console 'PAUSE shop' ;;
    switch_blue) point "$POOLER_BLUE" ;;
    switch_green) point "$POOLER_GREEN" ;;
    verify) [ -n "$(column port)" ] ;;
    release)
        console 'SET server_login_retry=0' # RELOAD put it back
        [ "$(column paused)" = 0 ] || console 'RESUME shop'
        ;;
    *) exit 2 ;;
esac
