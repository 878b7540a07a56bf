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
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sort -u >"$work/mirrors"
  while read -r mirror; do
    echo "deb $mirror trixie main" >"$work/sources.list"
    private() {
      (cd "$work/package" && apt-get -qq \
        -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o APT::Sandbox::User= -o Acquire::Retries=1 -o Acquire::http::Timeout=20 \
        "$@" </dev/null >/dev/null 2>&1)
    }
    if private update && private download libonnxruntime-dev &&
      dpkg -x "$work"/package/libonnxruntime-dev_*.deb "$work/unpacked"; then
      return 0
    fi
  done <"$work/mirrors"
  return 1
}

from_release() {
  case $(uname -m) in
    x86_64) machine=x64 ;;
    aarch64) machine=aarch64 ;;
    *) return 1 ;;
  esac
  name=onnxruntime-linux-$machine-$release
  url=https://github.com/microsoft/onnxruntime/releases/download/v$release/$name.tgz
  if command -v curl >/dev/null; then
    curl -fsSL --connect-timeout 20 -o "$work/$name.tgz" "$url" 2>/dev/null || return 1
  elif command -v wget >/dev/null; then
    wget -q --timeout=20 --tries=2 -O "$work/$name.tgz" "$url" || return 1
  else
    return 1
  fi
  mkdir -p "$work/unpacked" && tar -xzf "$work/$name.tgz" -C "$work/unpacked" "$name/include"
}

from_debian || from_release || exit 1
header=$(find "$work/unpacked" -name onnxruntime_cxx_api.h | head -n 1)
[ -n "$header" ] || exit 1
# A copy beside the destination first, so that an interrupted run leaves no half a folder.
rm -rf "$dest" "$dest.part" && mkdir -p "$(dirname "$dest")" &&
  cp -R "$(dirname "$header")" "$dest.part" && mv "$dest.part" "$dest"
