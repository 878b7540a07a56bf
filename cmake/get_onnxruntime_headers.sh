#!/bin/sh
# Gets ONNX Runtime's public headers into the folder DEST, whole or not at all. Installs nothing and leaves the system's
# package configuration alone: Debian's package where the mirror that apt is set up with has it, else the official
# release archive.
#
#     get_onnxruntime_headers.sh DEST
set -u

dest=$1
release=1.21.0
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# Debian has the package from trixie on; its headers serve every older system too.
from_debian() {
  command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/package" || return 1
  # The system's settings (a proxy, say) without what it runs after an update: that would work on the system's own lists.
  apt-config dump 2>/dev/null | grep -v -e '^APT::Update::' -e '^DPkg::' >"$work/apt.conf"
  cat >>"$work/apt.conf" <<CONF
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
APT::Sandbox::User "";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
CONF
  # What an update would fetch names every mirror, also where none was ever made.
  private_apt_get update --print-uris | sed -n "s#^'\(.*\)/dists/.*#\1#p" | awk '!seen[$0]++' >"$work/mirrors"
  # Newer systems trust a key only where a source names it.
  keyring=$(ls /usr/share/keyrings/debian-archive-keyring.* 2>/dev/null | head -n 1)
  cat >>"$work/apt.conf" <<CONF
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "/dev/null";
CONF
  while read -r mirror; do
    for options in ${keyring:+"[signed-by=$keyring]"} ''; do
      echo "deb $options $mirror trixie main" >"$work/sources.list"
      if private_apt_get update >/dev/null && private_apt_get download libonnxruntime-dev >/dev/null &&
        dpkg -x "$work"/package/libonnxruntime-dev_*.deb "$work/unpacked"; then
        return 0
      fi
    done
  done <"$work/mirrors"
  return 1
}

private_apt_get() {
  (cd "$work/package" && APT_CONFIG="$work/apt.conf" apt-get -q "$@" </dev/null 2>/dev/null)
}

from_release() {
  case $(uname -m) in
    x86_64) machine=x64 ;;
    aarch64) machine=aarch64 ;;
    *) return 1 ;;
  esac
  name=onnxruntime-linux-$machine-$release
  url=https://github.com/microsoft/onnxruntime/releases/download/v$release/$name.tgz
  download "$url" "$work/$name.tgz" || return 1
  mkdir -p "$work/unpacked" && tar -xzf "$work/$name.tgz" -C "$work/unpacked" "$name/include"
}

download() {
  if command -v curl >/dev/null; then
    curl -fsSL --connect-timeout 20 --max-time 300 -o "$2" "$1" 2>/dev/null
  elif command -v wget >/dev/null; then
    wget -q --timeout=20 --tries=2 -O "$2" "$1" 2>/dev/null
  else
    python3 - "$1" "$2" 2>/dev/null <<'PYTHON'
import shutil, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=20) as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target)
PYTHON
  fi
}

from_debian || from_release || exit 1
header=$(find "$work/unpacked" -name onnxruntime_cxx_api.h | head -n 1)
[ -n "$header" ] || exit 1
# A copy beside the destination first, so that an interrupted run leaves no half a folder.
rm -rf "$dest" "$dest.part" && mkdir -p "$(dirname "$dest")" &&
  cp -R "$(dirname "$header")" "$dest.part" && mv "$dest.part" "$dest"
