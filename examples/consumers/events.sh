#!/bin/sh
# Prints when a tag starts, from MQTT. Needs mosquitto_sub (Debian: mosquitto-clients).
# Usage: events.sh [HOST [PORT [PREFIX]]]
set -eu
host=${1:-localhost} port=${2:-1883} prefix=${3:-vtagd}

# A session of its own (-c, -i) at QoS 1: the broker keeps what comes while this script is not running.
mosquitto_sub -h "$host" -p "$port" -q 1 -c -i "tags-$(id -un)-sh" -t "$prefix/events" |
while read -r event; do
    case $event in
    *'"type":"dev.vtagd.tag.start"'*)
        field() { printf '%s\n' "$event" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
        printf '%s: %s\n' "$(field stream)" "$(field label)"
        ;;
    esac
done
