#!/usr/bin/env bash
# An OCI image of a package, without a registry: target/image/vtagd-VERSION-ARCH.tar, for `podman load` or `docker load`.
# Usage: image.sh PACKAGE.deb    needs root, a Debian mirror and 3 GB
#
# A minimal Debian 12 with what the package depends on and the package itself, made smaller by ops/image/slim.pl, in two layers: Debian, which
# changes with Debian, and vtagd. A package for another architecture makes an image for it, under qemu-user-static.
. "$(dirname "$0")/roots.sh"
own_mounts "$@"

deb=$(realpath "${1:?a package}")
[ -s "$deb" ] || die "there is no $deb: run make deb"
arch=$(dpkg-deb -f "$deb" Architecture)
version=$(dpkg-deb -f "$deb" Version)
# A tag has no +, ~ and the like; -1 is the packaging's.
tag=$(sed 's/-[0-9]*$//; s/[^A-Za-z0-9_.-]/-/g' <<<"$version")
image=target/image/vtagd-$tag-$arch.tar
epoch=$(tools/source_date.sh)
moment=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)

tools/setup/packages.sh mmdebstrap umoci
can_run "$arch"
mkdir -p "$roots" target/image
work=$(mktemp -d "$here/$roots/image.XXXXXX")
# What is mounted in it is mounted for this script alone, and ends here.
trap 'umount -l "$work/tree" "$work/tree.layers" 2>/dev/null; rm -rf --one-file-system "$work"' EXIT

# The last of alternatives, without versions: of systemd only what makes users and folders. And what the package recommends to all.
depends=$(dpkg-deb -f "$deb" Depends | sed 's/([^)]*)//g; s/[^,]*|//g; s/ //g'),ca-certificates,tzdata
say "a Debian 12 for $arch with what the package depends on (900 MB, kept until tomorrow)"
kept_root "depends-$arch" "$(date -u +%F)" bookworm --variant=minbase --architectures="$arch" --include="$depends"
say "the package, and nothing that it does not need"
overlay "$root" "$work/tree"
enter "$work/tree"
cp "$deb" "$work/tree/root/vtagd.deb"
cp ops/image/{slim.pl,plugins.txt,prepare.sh} "$work/tree/root/"
inside "$work/tree" VTAGD_IMAGE_ROOT=1 sh /root/prepare.sh >"$work/log" 2>&1 || { cat "$work/log" >&2; die "the package could not be installed"; }
leave "$work/tree"
rm -rf "$work/tree/root/"* "$work/tree/etc/machine-id"
tar -C "$work/tree" --one-file-system --numeric-owner --xattrs --xattrs-include=security.capability -cf "$work/root.tar" .
unpacked=$(tools/image/layers.py "$work/root.tar" "$work" "$epoch")
rm "$work/root.tar"

say "layers and configuration"
layout=$work/layout
made=(--history.author vtagd --history.created "$moment")
{
    umoci init --layout "$layout"
    umoci new --image "$layout:$tag"
    umoci raw add-layer --image "$layout:$tag" "${made[@]}" --history.created_by "mmdebstrap bookworm, slim.pl" "$work/debian.tar"
    umoci raw add-layer --image "$layout:$tag" "${made[@]}" --history.created_by "vtagd $version" "$work/vtagd.tar"
    umoci config --image "$layout:$tag" --no-history --created "$moment" --architecture "$arch" --os linux \
        --config.user 10001:0 --config.workingdir /state --config.entrypoint /usr/bin/vtagd --config.cmd run --config.cmd -c --config.cmd /config/vtagd.yaml \
        --config.volume /config --config.volume /state --config.volume /models --config.exposedports 8642/tcp --config.stopsignal SIGTERM \
        --config.env PATH=/usr/bin:/bin:/usr/sbin:/sbin --config.env HOME=/state --config.env STATE_DIRECTORY=/state \
        --config.env CACHE_DIRECTORY=/state/cache --config.env XDG_CACHE_HOME=/state/cache \
        --config.label org.opencontainers.image.title=vtagd --config.label "org.opencontainers.image.version=$version" \
        --config.label org.opencontainers.image.licenses=Apache-2.0
    umoci gc --layout "$layout"
} >"$work/log" 2>&1 || { cat "$work/log" >&2; die "umoci failed"; }
tools/image/finish.py "$layout" "$tag"
tar -C "$layout" --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -cf "$image.new" blobs index.json manifest.json oci-layout
mv "$image.new" "$image"
say "$image, $(du -m "$image" | cut -f1) MB; $unpacked MB unpacked (at most 550)"
[ "$unpacked" -le 550 ] || die "the image is too large: see ops/image/plugins.txt"
say "podman load -i $image, or docker load -i $image; then as in ops/image/compose.yaml"
