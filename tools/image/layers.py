#!/usr/bin/env python3
"""Splits a root file system into the two layers of the image: OUT/debian.tar, and OUT/vtagd.tar with what another version of vtagd changes.
Prints how many megabytes they have unpacked.

Usage: layers.py ROOT.tar OUT EPOCH    Names are sorted and no time is later than EPOCH, so the same files give the same bytes."""
import sys
import tarfile

OURS = ("usr/bin/vtagd", "usr/lib/vtagd/", "usr/share/vtagd/", "usr/share/doc/vtagd/", "etc/vtagd/", "var/lib/dpkg/", "config/", "state/", "models/")


def main(root, out, epoch):
    size = 0
    with tarfile.open(root) as archive, tarfile.open(f"{out}/debian.tar", "w", format=tarfile.PAX_FORMAT) as debian, \
            tarfile.open(f"{out}/vtagd.tar", "w", format=tarfile.PAX_FORMAT) as vtagd:
        members = archive.getmembers()
        # A hard link comes after what it is a link to.
        members.sort(key=lambda member: (member.islnk(), member.name.removeprefix("./")))
        for member in members:
            name = member.name.removeprefix("./").rstrip("/")
            if name in ("", ".") or member.ischr() or member.isblk():
                continue
            member.name = name
            member.linkname = member.linkname.removeprefix("./") if member.islnk() else member.linkname
            member.mtime = min(int(member.mtime), epoch)
            member.uname = member.gname = ""
            member.pax_headers = {key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.security.capability")}
            # As it lies on a disk, in blocks of 4 KB.
            size += -(-member.size // 4096) * 4096 if member.isreg() else 4096 if member.isdir() else 0
            layer = vtagd if f"{name}/".startswith(OURS) or name == "usr/bin/vtagd" else debian
            layer.addfile(member, archive.extractfile(member) if member.isreg() else None)
    print(-(-size // 1_000_000))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
