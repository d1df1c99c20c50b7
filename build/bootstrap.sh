#!/bin/bash
# Makes a bare Debian 12 ready to build and test Huck.
#
#   build/bootstrap.sh GROUP...   installs what the groups need and is missing; nothing missing, nothing done, no network
#   build/bootstrap.sh --go-path  prints the folder that holds (or will hold) the `go` to use, for PATH
#
# Groups:
#   go       a Go toolchain, if there is none or only an older one
#   unit     what unit tests judge by: mkfs and fsck, partition tools, cpio, network namespaces and other people's DHCP;
#            a C compiler for the race detector
#   lint     shellcheck
#   kernel   what builds the appliance's kernel
#   netboot  iPXE, systemd's stub and sbsign for the netboot folder, isolinux, xorriso and mtools for the medium
#   vm       what boots virtual machines on a private network
#   bench    the programs that Huck is measured beside, and the networks to do it in
#   all      all of these but bench: uftp's package starts its daemon where systemd runs
#
# The Go toolchain is the module golang.org/toolchain, fetched by an older Go (Debian's, if need be) the way it fetches
# any module, compared with the checksum below, and put into the cache folder (HUCK_CACHE, or huck in the user's).
set -euo pipefail

go_version=go1.26.8
# The module's checksum as go.sum and the checksum database have it: SHA-256 over the list of its files' SHA-256.
go_checksum=h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM=
go_platform=linux-amd64

packages_unit=(gcc libc6-dev e2fsprogs dosfstools gdisk fdisk util-linux mount mtools cpio openssl iproute2 nftables dnsmasq-base ndisc6 isc-dhcp-client procps tftp-hpa curl udhcpc
  xfsprogs btrfs-progs ntfs-3g exfatprogs exfat-fuse f2fs-tools cryptsetup-bin qemu-utils partclone lvm2 xz-utils zstd bzip2 lz4 lzop time)
packages_lint=(shellcheck)
packages_kernel=(linux-source-6.12 make gcc libc6-dev flex bison bc libelf-dev perl tar xz-utils zstd)
packages_netboot=(ipxe systemd-boot-efi sbsigntool isolinux syslinux-common xorriso mtools)
packages_vm=(qemu-system-x86 qemu-utils ipxe systemd-boot-efi sbsigntool isolinux xorriso openssl dnsmasq-base ipxe-qemu seabios ovmf nftables iproute2 ethtool debootstrap syslinux-common
  e2fsprogs dosfstools gdisk fdisk util-linux mtools f2fs-tools xfsprogs cpio busybox lvm2 dmsetup cryptsetup-bin libc-bin)
packages_bench=(udpcast uftp iproute2 nftables ethtool partclone zstd e2fsprogs time)
packages_fetch_go=(golang-go ca-certificates)

main() {
  [[ $# -gt 0 ]] || die "which group? go, unit, lint, kernel, netboot, vm, bench or all"
  local wanted=() want_go=no group
  for group; do
    case $group in
      --go-path) go_path; return ;;
      -h | --help) usage; return ;;
      go) want_go=yes ;;
      unit) wanted+=("${packages_unit[@]}") ;;
      lint) wanted+=("${packages_lint[@]}") ;;
      kernel) wanted+=("${packages_kernel[@]}") ;;
      netboot) wanted+=("${packages_netboot[@]}") ;;
      vm) wanted+=("${packages_vm[@]}") ;;
      bench) wanted+=("${packages_bench[@]}") ;;
      all)
        want_go=yes
        wanted+=("${packages_unit[@]}" "${packages_lint[@]}" "${packages_kernel[@]}" "${packages_netboot[@]}" "${packages_vm[@]}")
        ;;
      *) die "no group '$group'; there are go, unit, lint, kernel, netboot, vm, bench and all" ;;
    esac
  done
  install_missing "${wanted[@]}"
  if [[ $want_go == yes ]]; then provide_go; fi
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

say() { printf 'bootstrap: %s\n' "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# install_missing PACKAGE... asks dpkg first, so that it is quick and needs no network where all is there.
install_missing() {
  local missing=() installed package
  # shellcheck disable=SC2016 # dpkg-query's variables, not the shell's
  installed=$(dpkg-query --show --showformat '${Package} ${db:Status-Status}\n' -- "$@" 2>/dev/null || true)
  for package in "$@"; do
    grep -qxF "$package installed" <<<"$installed" || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  say "installing ${missing[*]}"
  apt_get update
  apt_get install --no-install-recommends "${missing[@]}"
}

# apt_get runs apt-get without questions, as root, patient with another apt at work, and quiet unless it fails.
apt_get() {
  local as_root=() log status=0
  if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null || die "installing packages needs root: run this as root, or install sudo"
    as_root=(sudo)
  fi
  log=$(mktemp)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet -o DPkg::Lock::Timeout=600 "$@" >"$log" 2>&1 </dev/null || status=$?
  if [[ $status -ne 0 ]]; then
    tail -n 30 "$log" >&2
    rm -f "$log"
    die "apt-get $1 failed: is the network there, and does /etc/apt name a Debian 12 mirror with its security updates?"
  fi
  rm -f "$log"
}

cache_folder() {
  if [[ -n ${HUCK_CACHE:-} ]]; then
    echo "$HUCK_CACHE"
  elif [[ -n ${XDG_CACHE_HOME:-} ]]; then
    echo "$XDG_CACHE_HOME/huck"
  else
    echo "${HOME:?set HOME, or HUCK_CACHE}/.cache/huck"
  fi
}

cached_go() { echo "$(cache_folder)/$go_version"; }

# new_enough GO: is this Go at least ours, by itself and not by fetching another?
new_enough() {
  local version
  version=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
  [[ $version =~ ^go[0-9]+\.[0-9]+ ]] || return 1
  [[ $(printf '%s\n' "$go_version" "$version" | sort -V | head -n 1) == "$go_version" ]]
}

# go_path prints where `go` is: the one in PATH or in its usual place, if it will do, and the cached one otherwise.
go_path() {
  local go
  for go in "$(command -v go || true)" /usr/local/go/bin/go; do
    if [[ -n $go && -x $go ]] && new_enough "$go"; then
      dirname "$go"
      return
    fi
  done
  echo "$(cached_go)/bin"
}

provide_go() {
  local go
  go=$(go_path)/go
  if [[ -x $go ]]; then
    new_enough "$go" || die "$go does not run: remove $(cached_go) and try again"
  else
    fetch_go
  fi
  go_path
}

# any_go prints a Go that can fetch modules: whatever is in PATH, or Debian's.
any_go() {
  command -v go && return
  install_missing "${packages_fetch_go[@]}"
  command -v go || echo /usr/lib/go/bin/go
}

fetch_go() {
  [[ $(uname -sm) == "Linux x86_64" ]] || die "no Go $go_version, and only the one for $go_platform can be fetched: install it and put it into PATH"
  local go version work
  version=v0.0.1-$go_version.$go_platform
  go=$(any_go)
  mkdir -p "$(cache_folder)"
  work=$(mktemp -d "$(cache_folder)/fetching-go.XXXXXX")
  # shellcheck disable=SC2064 # the folder of this very run
  trap "chmod -R u+w '$work' && rm -rf '$work'" EXIT
  say "fetching Go $go_version with $go"
  (cd "$work" && GOTOOLCHAIN=local GOFLAGS='' GOMODCACHE=$work/mod "$go" mod download "golang.org/toolchain@$version") >&2 ||
    die "cannot fetch golang.org/toolchain@$version: is the Go module proxy within reach (see \`go env GOPROXY\`)?"
  local unpacked=$work/mod/golang.org/toolchain@$version
  check_go "$unpacked" "golang.org/toolchain@$version"
  unwrap_go "$unpacked"
  mv -T "$unpacked" "$(cached_go)" 2>/dev/null || [[ -x $(cached_go)/bin/go ]] || die "cannot move Go to $(cached_go)"
  say "Go $go_version is in $(cached_go)"
}

# check_go FOLDER NAME computes the module checksum of what was unpacked and compares it with ours.
check_go() {
  local sum
  sum=$(cd "$1" && find . -type f -printf '%P\n' | LC_ALL=C sort | tr '\n' '\0' | xargs -0 sha256sum -- |
    sed "s|  |  $2/|" | sha256sum | cut -c1-64)
  [[ $sum == "$(base64 -d <<<"${go_checksum#h1:}" | od -An -v -tx1 | tr -d ' \n')" ]] ||
    die "golang.org/toolchain for $go_version is not what it should be (want $go_checksum, got $sum in hex): refusing to use it"
}

# unwrap_go FOLDER undoes what a module may not have: modules cannot nest, so inner go.mod files come as _go.mod, and
# they carry no executable bits. cmd/go does the same when it fetches a toolchain for itself.
unwrap_go() {
  chmod -R u+w "$1"
  find "$1" -name _go.mod -type f -execdir mv -T _go.mod go.mod \;
  chmod +x "$1"/bin/* "$1"/pkg/tool/*/* "$1"/lib/time/*.bash "$1"/src/*.bash 2>/dev/null || true
}

main "$@"
