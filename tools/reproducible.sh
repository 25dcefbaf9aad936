#!/usr/bin/env bash
# Builds the binary a second time, in another folder, with another cargo home, time zone, language, umask and number of jobs, and
# compares it with target/dist/vtagd byte by byte. Called by `make reproducible`, which builds the first; a whole build: minutes, 1 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'reproducible: %s\n' "$*"; }
die() { printf 'reproducible: %s\n' "$*" >&2; exit 1; }

[ -x target/dist/vtagd ] || die "there is no target/dist/vtagd: run tools/dist.sh first"
work=$(mktemp -d)
keep=
trap '[ -n "$keep" ] || rm -rf "$work"' EXIT
other=$work/a/folder/of/another/name
mkdir -p "$other"
# The working tree as it is, uncommitted changes too, and nothing that git ignores.
git ls-files --cached --others --exclude-standard -z | while IFS= read -r -d '' file; do
    [ ! -e "$file" ] || printf '%s\0' "$file"
done | tar --null -T - -cf - | tar -C "$other" -xf -

# Another name for the same crates: what was downloaded is not fetched again, but every path the compiler sees is another.
home=$(realpath "${CARGO_HOME:-$HOME/.cargo}")
mkdir "$work/cargo"
for entry in "$home"/*; do
    case $(basename "$entry") in registry) ;; *) ln -s "$entry" "$work/cargo/" ;; esac
done
mkdir "$work/cargo/registry"
ln -s "$home"/registry/* "$work/cargo/registry/"

say "building again, in a copy under $work"
SOURCE_DATE_EPOCH=$(tools/source_date.sh)
export SOURCE_DATE_EPOCH
(umask 077 && cd "$other" && env -u CARGO_TARGET_DIR CARGO_HOME="$work/cargo" CARGO_BUILD_JOBS=3 TZ=Pacific/Chatham LC_ALL=C.UTF-8 \
    tools/dist.sh --quiet) || die "the second build failed"

sha256sum target/dist/vtagd "$other/target/dist/vtagd" | sed "s#$work#…#"
if ! cmp target/dist/vtagd "$other/target/dist/vtagd"; then
    # What differs most often is text: a path, a time. The rest is for diffoscope.
    diff <(strings -n 8 target/dist/vtagd | sort -u) <(strings -n 8 "$other/target/dist/vtagd" | sort -u) | head -n 20 || true
    keep=yes
    die "the two builds differ; the second one is kept for a closer look: $other/target/dist"
fi
for path in "$home" "$work" "$(pwd -P)" "$HOME/"; do
    ! grep -qaF "$path" target/dist/vtagd || die "the binary holds the path $path"
done
say "both builds are the same, and no path of this machine is in them"
