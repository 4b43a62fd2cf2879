#!/bin/sh
# Installs by apt what the full tests need of the system and is not there. Nothing of it is started, now or when the
# machine boots: tests start their own. Fails if something cannot be had.
set -eu

has() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }

missing=
[ -x /usr/bin/chromium ] || missing="$missing chromium fonts-noto-color-emoji"
has redis-server || missing="$missing redis-server"
has nginx || missing="$missing nginx"
[ "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Only root can install what is missing. Type: sudo apt-get install$missing" >&2
    exit 1
fi

# What packages ask before they start a service; a site's own policy stays as it is.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get -qq update
# shellcheck disable=SC2086 # a list of words
apt-get -qq install --yes --no-install-recommends $missing >/dev/null
if command -v systemctl >/dev/null; then
    for service in redis-server nginx; do
        case "$missing " in
        *" $service "*) systemctl --quiet disable "$service" 2>/dev/null || : ;;
        esac
    done
fi
