#!/usr/bin/env bash
# Installs a built release. Called by `make install`, which passes DESTDIR, PREFIX, SYSCONFDIR and UNITDIR.
# A configuration that is already there is never touched.
set -euo pipefail
cd "$(dirname "$0")/.."
die() { printf 'install: %s\n' "$*" >&2; exit 1; }

lib=$DESTDIR$PREFIX/lib/vtagd
share=$DESTDIR$PREFIX/share/vtagd
doc=$DESTDIR$PREFIX/share/doc/vtagd
etc=$DESTDIR$SYSCONFDIR/vtagd

[ -x target/release/vtagd ] || die "there is no target/release/vtagd: run make build first"
[ -e runtime/libonnxruntime.so ] && [ -d models/starter ] || die "the runtime or the starter model is missing: run make setup first"
install -d "$DESTDIR$PREFIX" 2>/dev/null && [ -w "$DESTDIR$PREFIX" ] || die "cannot write to $DESTDIR$PREFIX: run sudo make install, or set DESTDIR"

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
target/release/vtagd package-files "$made" || die "target/release/vtagd does not run: run make build on this machine"

install -D -m 755 target/release/vtagd "$DESTDIR$PREFIX/bin/vtagd"
install -D -m 644 -t "$DESTDIR$PREFIX/share/man/man1" "$made"/man/*.1
install -D -m 644 "$made/vtagd.bash" "$DESTDIR$PREFIX/share/bash-completion/completions/vtagd"
install -D -m 644 -t "$DESTDIR$PREFIX/share/fish/vendor_completions.d" "$made/vtagd.fish"
# Where zsh looks: below /usr in Debian's folder for packages, elsewhere in zsh's own.
zsh=site-functions
[ "$PREFIX" != /usr ] || zsh=vendor-completions
install -D -m 644 -t "$DESTDIR$PREFIX/share/zsh/$zsh" "$made/_vtagd"
install -D -m 644 -t "$lib" runtime/libonnxruntime.so
install -D -m 644 -t "$share/pipelines" pipelines/*.gst
install -D -m 644 -t "$share" config/vtagd.schema.json config/vtagd-labels.schema.json config/vtagd.asyncapi.json
install -D -m 644 -t "$share/models/starter" models/starter/*
install -D -m 644 -t "$doc" LICENSE README.md CHANGELOG.md docs/*.md \
    runtime/LICENSE.onnxruntime runtime/ThirdPartyNotices.onnxruntime.txt
install -D -m 644 -t "$doc/examples/labels" config/labels/*.yaml
install -D -m 644 -t "$doc/examples/systemd" systemd/nvidia.conf systemd/vtagd-nvidia.service
install -D -m 644 -t "$doc/examples/consumers" examples/consumers/*
install -D -m 644 -t "$doc/examples/node-red" examples/node-red/*
install -D -m 644 -t "$doc/ops/ansible" ops/ansible/*.yaml
for part in group_vars host_vars labels templates; do
    install -D -m 644 -t "$doc/ops/ansible/$part" ops/ansible/$part/*
done
install -D -m 644 -t "$doc/ops/prometheus" ops/prometheus/*.yaml
install -D -m 644 -t "$doc/ops/grafana" ops/grafana/*.json
install -D -m 644 systemd/vtagd.sysusers "$DESTDIR$PREFIX/lib/sysusers.d/vtagd.conf"

# placed FILE TARGET: a file that names where things lie, with the places of this installation.
placed() {
    local text
    text=$(<"$1")
    text=${text//\/usr\/bin\/vtagd/"$PREFIX/bin/vtagd"}
    text=${text//\/usr\/share\/doc\/vtagd/"$PREFIX/share/doc/vtagd"}
    text=${text//\/etc\/vtagd/"$SYSCONFDIR/vtagd"}
    install -D -m 644 /dev/stdin "$2" <<<"$text"
}
placed systemd/vtagd.service "$DESTDIR$UNITDIR/vtagd.service"
placed systemd/vtagd.tmpfiles "$DESTDIR$PREFIX/lib/tmpfiles.d/vtagd.conf"

# keep FILE TARGET: a configuration file, unless there is one already.
keep() {
    if [ -e "$2" ]; then
        echo "install: kept $2"
    else
        install -D -m "${3:-644}" "$1" "$2"
    fi
}
keep config/vtagd.yaml "$etc/vtagd.yaml"
for file in config/labels/*.yaml; do keep "$file" "$etc/labels/$(basename "$file")"; done

echo "install: done. Next: edit $SYSCONFDIR/vtagd/vtagd.yaml, then as root:"
echo "install:   systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload && systemctl enable --now vtagd"
