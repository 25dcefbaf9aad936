#!/bin/sh
# What both ways to an image have in common (make image and the Dockerfile). Runs in a Debian root, as root, with vtagd.deb, slim.pl and
# plugins.txt beside it; what the package depends on is there or can be had from apt.
set -eu
# It removes most of a machine. Only those who have just made a root for it say so, and a root has no systemd that runs.
if [ -z "${VTAGD_IMAGE_ROOT-}" ] || [ -e /run/systemd/system ]; then
    echo "prepare.sh: this is no root of an image: it would remove most of this machine. Nothing was done; run \`make image\`, or build ops/image/Dockerfile" >&2
    exit 2
fi
here=$(dirname "$0")
# A number that can be named in a chown; who is given another one (--user) is of group 0, which may write there too.
groupadd --system --gid 10001 vtagd
useradd --system --uid 10001 --gid 10001 --home-dir /state --no-create-home --shell /usr/sbin/nologin vtagd
# Debian's image for Docker leaves out what lies there: licences, and the examples that people begin with.
printf 'path-include /usr/share/doc/vtagd/*\n' >/etc/dpkg/dpkg.cfg.d/zz-vtagd
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$here/vtagd.deb"
perl "$here/slim.pl" "$here/plugins.txt"
mkdir -p /config /models
install -d -o 10001 -g 0 -m 770 /state
# Commands without -c read the configuration that is mounted; the label sets to copy from are in /usr/share/doc/vtagd/examples/labels.
rm -rf /etc/vtagd
ln -s /config /etc/vtagd
# Nobody becomes root in it.
find / -xdev -type f -perm /6000 -exec chmod ug-s {} +
rm -rf /tmp/* /var/lib/apt/lists/*
