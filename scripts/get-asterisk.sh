#!/bin/bash
# Fetch a private Asterisk 22 for the tests from Debian packages: no root, no chroot, nothing on the host changes.
#   get-asterisk.sh [ROOTFS]     default ~/.cache/hark/asterisk
# MIRROR  a Debian mirror; by default the one this host's apt uses     SUITE  default sid (Debian 12 has no Asterisk)
# The binary is run with the loader and libraries of the same packages, so the host's older libc does not matter.
set -euo pipefail
rootfs=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/hark/asterisk}
suite=${SUITE:-sid}
[ -x "$rootfs/usr/sbin/asterisk" ] && exit 0

for program in apt-get dpkg-deb flock; do
  command -v $program >/dev/null || { echo "get-asterisk: $program is missing; this needs a Debian or Ubuntu host" >&2; exit 1; }
done
mkdir -p "$(dirname "$rootfs")"
exec 9>"$rootfs.lock"
flock 9
[ -x "$rootfs/usr/sbin/asterisk" ] && exit 0        # another run was faster

# The host's own choice of mirror, whichever of apt's two formats it is written in.
mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -m1 -E '/debian/?$' || true)}
mirror=${mirror:-http://deb.debian.org/debian}
arch=$(dpkg --print-architecture)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r $keyring ] && trust="signed-by=$keyring" || { echo "get-asterisk: $keyring is missing: install debian-archive-keyring" >&2; exit 1; }

work=$(mktemp -d "$rootfs.part.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,cache/archives/partial,root}
: > "$work/status"
echo "deb [arch=$arch $trust] $mirror $suite main" > "$work/sources.list"
# -c is read after the host's configuration, so its proxy and credentials stay and only the places change. An empty status
# file makes apt think of a machine with nothing installed; ForceEssential keeps it from adding a whole base system.
cat > "$work/apt.conf" <<CONF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$work/state";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
APT::Sandbox::User "";
APT::Get::List-Cleanup "false";
APT::Get::Assume-Yes "true";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Acquire::Retries "3";
Debug::NoLocking "true";
pkgCacheGen::ForceEssential "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF

run() { "$@" >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; echo "get-asterisk: failed: $*" >&2; exit 1; }; }
echo "get-asterisk: fetching Asterisk from $suite (80 MB, once) into $rootfs" >&2
run apt-get -q -c "$work/apt.conf" update
run apt-get -q -c "$work/apt.conf" install --download-only --no-install-recommends asterisk asterisk-core-sounds-en-gsm base-files
for deb in "$work"/cache/archives/*.deb; do
  # programs that the packages want for their own installation; the rest is libraries that Asterisk loads
  case ${deb##*/} in
    systemd_*|perl*|libperl*|adduser_*|passwd_*|dpkg_*|tar_*|util-linux_*|debconf_*|init-system*|sysvinit*|coreutils_*|login*|mount_*|libpython*|python3*) continue;;
  esac
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/root" --no-same-owner --keep-directory-symlink \
    --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*'
done
[ -x "$work/root/usr/sbin/asterisk" ] || { echo "get-asterisk: the packages hold no asterisk" >&2; exit 1; }
rm -rf "$rootfs"
mv "$work/root" "$rootfs"                             # whole or not at all
echo "get-asterisk: $(du -sh "$rootfs" | cut -f1) in $rootfs" >&2
