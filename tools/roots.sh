# Sourced by what makes Debian root file systems and runs programs in them: target/roots/NAME. Needs root.
#
# A script that sources it begins with `own_mounts "$@"`: from there on it has mounts of its own, which end with it, however it ends. So nothing
# stays mounted, and removing a root can only remove the root.
# shellcheck shell=bash
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
here=$(pwd -P)
roots=target/roots
me=$(basename "$0" .sh)
me=${me//_/-}

say() { printf '%s: %s\n' "$me" "$*"; }
die() { printf '%s: %s\n' "$me" "$*" >&2; exit 1; }

# own_mounts ARGUMENTS...: the script begins anew in a mount namespace of its own.
own_mounts() {
    [ -z "${VTAGD_OWN_MOUNTS-}" ] || return 0
    [ "$(id -u)" -eq 0 ] || die "needs root, to make a root file system and to go into it: run it with sudo"
    VTAGD_OWN_MOUNTS=1 exec unshare --mount --propagation private "$BASH" "$self" "$@"
}

# debian_arch: what Debian calls this machine.
debian_arch() { dpkg --print-architecture; }

# machine_of ARCH: what the kernel, Python and GNU call it.
machine_of() {
    case $1 in
        amd64) echo x86_64 ;;
        arm64) echo aarch64 ;;
        *) die "ARCH=$1 is not known: amd64 or arm64" ;;
    esac
}

# can_run ARCH: makes programs of another architecture run, by qemu-user-static. What it tells the kernel for that stays until the machine is
# restarted (`echo -1 >/proc/sys/fs/binfmt_misc/qemu-MACHINE` ends it): another script that runs at the same time may need it.
can_run() {
    [ "$1" != "$(debian_arch)" ] || return 0
    local machine rule
    machine=$(machine_of "$1")
    tools/setup/packages.sh qemu-user-static arch-test
    arch-test "$1" >/dev/null 2>&1 && return 0
    # A machine without systemd or binfmt-support, such as a container: the same line that those would give to the kernel.
    rule=/usr/lib/binfmt.d/qemu-$machine.conf
    [ -e "$rule" ] || die "no $rule: install binfmt-support, or a newer qemu-user-static, so that programs for $1 run here"
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc 2>/dev/null || die "this kernel takes no binfmt_misc: programs for $1 do not run here"
    [ -e "/proc/sys/fs/binfmt_misc/qemu-$machine" ] || cat "$rule" >/proc/sys/fs/binfmt_misc/register
    arch-test "$1" >/dev/null 2>&1 || die "programs for $1 do not run here: see qemu-$machine-static"
}

# bootstrap SUITE TARGET [MMDEBSTRAP OPTIONS...]: a Debian, without recommended packages, over the same proxy as this machine's apt.
bootstrap() {
    local suite=$1 target=$2 log
    shift 2
    mkdir -p "$roots"
    log=$(mktemp)
    apt-config dump | grep -E '^Acquire::https?' >"$log.conf" || true
    if ! TMPDIR=$here/$roots mmdebstrap --aptopt="$log.conf" --aptopt='APT::Install-Recommends "false"' "$@" "$suite" "$target" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "the root could not be made, see above: is the Debian mirror reached, is there room?"
    fi
    rm -f "$log" "$log.conf"
}

# kept_root NAME KEY SUITE [MMDEBSTRAP OPTIONS...]: sets $root to target/roots/NAME; makes it only if none was made for the same KEY and options.
kept_root() {
    local name=$1 want
    root=$here/$roots/$name
    want=$(printf '%s\n' "$@" | sha256sum | cut -d' ' -f1)
    [ "$(cat "$root.made" 2>/dev/null)" != "$want" ] || return 0
    mkdir -p "$roots"
    rm -rf --one-file-system "$root" "$root.new" "$root.made"
    bootstrap "$3" "$root.new" "${@:4}"
    mv "$root.new" "$root"
    echo "$want" >"$root.made"
}

# enter ROOT: what programs in it expect: /proc, the harmless devices, a folder of their own for temporary files.
enter() {
    local device
    mount -t proc proc "$1/proc"
    mount -t tmpfs -o mode=755 dev "$1/dev"
    for device in null zero full random urandom; do
        : >"$1/dev/$device"
        mount --bind "/dev/$device" "$1/dev/$device"
    done
    mkdir -p "$1/dev/shm"
    mount -t tmpfs -o mode=1777 shm "$1/dev/shm"
    ln -s /proc/self/fd "$1/dev/fd"
    mount -t tmpfs -o mode=1777 tmp "$1/tmp"
    mount -t tmpfs -o mode=755 run "$1/run"
}

# leave ROOT: what `enter` has mounted goes, so that nothing of it is packed.
leave() {
    local place
    for place in run tmp dev proc; do umount -R -l "$1/$place"; done
}

# overlay ROOT TREE: a copy of ROOT that costs nothing and is changed in its place; it lies in memory and ends with the script.
overlay() {
    local layers=$2.layers
    mkdir -p "$layers" "$2"
    mount -t tmpfs -o mode=755 layers "$layers"
    mkdir "$layers/upper" "$layers/work"
    mount -t overlay -o "lowerdir=$1,upperdir=$layers/upper,workdir=$layers/work" overlay "$2"
}

# lend ROOT FOLDER [AS]: FOLDER of this machine, in the root under the same name, or as AS.
lend() {
    local from as
    from=$(realpath "$2")
    as=$1${3:-$from}
    mkdir -p "$as"
    mount --bind "$from" "$as"
}

# inside ROOT COMMAND...: nothing of this shell gets in; PATH and HOME are the only variables. NAME=VALUE may stand before the command.
inside() {
    local into=$1
    shift
    chroot "$into" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
}
