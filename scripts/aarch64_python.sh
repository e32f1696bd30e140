#!/bin/sh
# Puts an aarch64 Python into a folder, for test/unit/test_shim_aarch64.py: scripts/aarch64_python.sh FOLDER
# Debian's packages for arm64 are downloaded and unpacked there. Nothing is installed, the system's list of
# architectures stays as it is, and no root is needed. Exits with 1 and says so where apt's sources have none.
set -eu
[ $# = 1 ] || { sed -n 2,4p "$0" >&2; exit 2; }
mkdir -p "$1"
root=$(cd "$1" && pwd)
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state/lists/partial" "$state/archives/partial"
: >"$state/status"
# An apt of its own: another architecture, no package installed, so that all that Python needs is taken.
cat >"$state/apt.conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::State "$state";
Dir::State::Lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state";
Dir::Cache::archives "$state/archives";
END
export APT_CONFIG="$state/apt.conf"
apt-get update -qq
apt-get install -qq -y --download-only python3-minimal libpython3-stdlib >/dev/null
for package in "$state"/archives/*_arm64.deb; do
    [ -e "$package" ] || { echo "apt's sources have no Python for arm64" >&2; exit 1; }
    dpkg-deb -x "$package" "$root"
done
ls "$root"/usr/bin/python3.* >/dev/null
echo "RRTO_AARCH64_ROOT=$root"
