# shellcheck shell=bash
# Helpers that the scripts beside this share. Sourced, never run.

# One line of progress. To standard error, so that what a script is asked for can be piped.
say() { printf '==> %s\n' "$*" >&2; }

# One line that says what is wrong, and the end.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Runs a command as root: as it is for root, else with sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Whether as_root can work at all. Asks for the password now, so that nothing later has to.
can_be_root() {
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -v; }
}

# Whether Debian has a package of this name to install.
has_package() { [ -n "$(apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: \((none)\)\{0,1\}//p')" ]; }

# Fresh machines and images come without package lists.
apt_lists() {
    has_package "$1" && return
    say "reading Debian's package lists (apt-get update)"
    quietly as_root apt-get update || die "apt-get update failed"
}

# Runs a command, and shows what it said only if it failed.
quietly() {
    local output status
    output=$("$@" 2>&1 </dev/null) && status=0 || status=$?
    [ $status = 0 ] || printf '%s\n' "$output" >&2
    return $status
}

# need COMMAND PACKAGE...: installs the packages if the command is not there.
need() {
    local command=$1
    shift
    have "$command" && return
    command -v apt-get >/dev/null || die "\`$command\` is needed; install it, then run this again"
    can_be_root || die "\`$command\` is needed, and this user can install nothing; as root: apt-get install $*"
    apt_lists "$1"
    say "installing $* (for \`$command\`)"
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@" ||
        die "could not install $*; as root: apt-get install $*"
    have "$command" || die "\`$command\` is still missing after installing $*"
}

# Whether a command is there. Debian keeps some that only root runs out of a user's PATH.
have() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

# The client alone. From Debian 13 it is a package of its own; in Debian 12 it comes with the engine.
need_docker_client() {
    have docker && return
    apt_lists docker.io
    if has_package docker-cli; then need docker docker-cli; else install_engine; fi
}

# Engine, runtime and client.
need_engine() {
    if ! have dockerd || ! have containerd || ! have runc; then install_engine; fi
    need_docker_client
    # With AppArmor in the kernel, an engine that cannot load its profile starts no container.
    if grep -qs Y /sys/module/apparmor/parameters/enabled; then need apparmor_parser apparmor; fi
}

# Debian starts a service on installing it. The one that this script did not find running it stops again.
install_engine() {
    local before
    before=$(systemctl is-active docker.service 2>/dev/null) || true
    need dockerd docker.io
    if [ "$before" != active ] && systemctl --quiet is-active docker.service 2>/dev/null; then
        say "stopping the docker.service that the installation started (it is still enabled for the next boot)"
        as_root systemctl stop docker.socket docker.service >&2
    fi
}

# What cargo needs beside itself: ring and jemalloc are partly C.
need_rust() {
    command -v cargo >/dev/null ||
        die "\`cargo\` is not on the PATH: install Rust from https://rustup.rs, or run this as the user who has it"
    need cc gcc libc6-dev
    need make make
}

# need_go WHAT REMEDY: Go, for building WHAT; where there is none that will do, REMEDY is what else can be done. It has
# to be one that can fetch a later one by itself, which modules may ask for.
need_go() {
    local oldest=1.21 offered version what=$1 remedy=$2
    [ ! -x /usr/local/go/bin/go ] || PATH=$PATH:/usr/local/go/bin
    if ! have go; then
        # Debian 12 has one that is too old: not worth the installation.
        apt_lists golang-go
        offered=$(apt-cache policy golang-go 2>/dev/null | sed -n 's/^  Candidate: \([0-9]*:\)\{0,1\}//p')
        dpkg --compare-versions "${offered:-0}" ge $oldest || go_is_missing "and Debian's is ${offered:-none}"
        need go golang-go
    fi
    version=$(go env GOVERSION | sed 's/^go//; s/[^0-9.].*//')
    dpkg --compare-versions "${version:-0}" ge $oldest || go_is_missing "and this one is ${version:-unknown}"
}

# For need_go, whose variables it reads.
go_is_missing() {
    # shellcheck disable=SC2154 # of need_go
    die "$what is built with Go $oldest or later, $1: install it from https://go.dev/dl, $remedy"
}

# static_busybox DIR: prints the path of a statically linked busybox. Where there is none it is unpacked
# into DIR, not installed: Debian's busybox-static would push out the busybox that boots the machine.
static_busybox() {
    local found
    for found in /bin/busybox "$1/bin/busybox" "$1/usr/bin/busybox"; do
        if [ -x "$found" ] && ! ldd "$found" >/dev/null 2>&1; then
            echo "$found"
            return
        fi
    done
    command -v apt-get >/dev/null || die "a statically linked busybox is needed at /bin/busybox"
    apt_lists busybox-static
    say "unpacking Debian's busybox-static"
    (cd "$1" && quietly apt-get download busybox-static && dpkg-deb --extract busybox-static_*.deb .) ||
        die "could not get Debian's package busybox-static"
    for found in "$1/bin/busybox" "$1/usr/bin/busybox"; do
        if [ -x "$found" ]; then
            echo "$found"
            return
        fi
    done
    die "no busybox in Debian's package busybox-static"
}

# busybox_image NAME:TAG DIR: makes an image of a static busybox and a link for each of its commands.
busybox_image() {
    local root=$2/image busybox command
    busybox=$(static_busybox "$2") || exit 1
    mkdir -p "$root/bin" "$root/tmp"
    cp "$busybox" "$root/bin/busybox"
    for command in $("$busybox" --list); do
        [ "$command" = busybox ] || ln -sf busybox "$root/bin/$command"
    done
    tar -C "$root" -c . | docker import - "$1" >/dev/null || die "docker import failed"
}

# port_taken PORT: whether something listens there, by the kernel's own tables (0A is LISTEN). Of IPv6 only
# the addresses that take IPv4 as well.
port_taken() {
    local hex
    hex=$(printf '%04X' "$1")
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port=":$hex" '
        $4 == "0A" && substr($2, length($2) - 4) == port {
            address = substr($2, 1, length($2) - 5)
            if (length(address) == 8 || address ~ /^0+$/ || address ~ /^0+FFFF0000/) taken = 1
        }
        END { exit !taken }'
}

# private_engine DIR: starts an engine of its own in DIR and points DOCKER_HOST at it. It ends, and DIR with
# it, when end_private_engine is called or this shell is gone, in whatever way.
private_engine() {
    local scripts ready=
    scripts=$(dirname "${BASH_SOURCE[0]}")
    need_engine
    can_be_root || die "an engine of its own has to be started by root: run this as root, or with sudo set up"
    say "starting a private Docker Engine in $1"
    coproc ENGINE { as_root "$scripts/private-engine" "$1" "$(id -g)"; }
    # shellcheck disable=SC2153 # set by coproc
    engine_process=$ENGINE_PID
    read -r -t 60 -u "${ENGINE[0]}" ready || true
    [ "$ready" = ready ] || die "the private Docker Engine did not start"
    unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH
    export DOCKER_HOST="unix://$1/docker.sock"
}

end_private_engine() {
    [ -n "${engine_process:-}" ] || return 0
    local input=${ENGINE[1]:-}
    [ -z "$input" ] || exec {input}>&-
    wait "$engine_process" 2>/dev/null || true
    engine_process=
}
