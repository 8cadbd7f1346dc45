#!/usr/bin/env bash
# Lay out what building and testing libwanrt takes, for CMAKE_PREFIX_PATH:
#
#   deps.sh PREFIX PYTHON
#
# Headers of nlohmann-json, doctest, OpenSSL and ONNX Runtime come from Debian 13's packages, unpacked
# under PREFIX and not installed; the ONNX Runtime library is the one that PYTHON imports, so that C++
# and Python compute with the same one. Its C API only grows: headers of 1.21 work with any later one.
# OpenSSL's libcrypto is this machine's: Debian's may need a newer libc than there is here.
set -euo pipefail
prefix=$(realpath -m "$1")
python=$2
release=trixie

library=$("$python" -c '
import glob, os, sys
from importlib.util import find_spec
found = find_spec("onnxruntime")
found = glob.glob(os.path.dirname(found.origin) + "/capi/libonnxruntime.so.*") if found else []
sys.exit("onnxruntime is not installed, or has no libonnxruntime.so") if not found else print(*found)
')
name=$(basename "$library")
[[ -e $prefix/lib/$name && -e $prefix/lib/libcrypto.so ]] && exit
crypto=$(realpath -m "$(c++ -print-file-name=libcrypto.so.3)")
[[ -e $crypto ]] || { echo "libwanrt needs OpenSSL 3: no libcrypto.so.3 was found" >&2; exit 1; }

site=$(apt-get indextargets --format '$(SITE) $(COMPONENT)' | awk '$2 == "main" { print $1; exit }')
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
mkdir -p "$scratch"/{lists,archives}/partial
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $release main" \
  >"$scratch/sources.list"
apt=(apt-get -qq -o "Dir::Etc::SourceList=$scratch/sources.list" -o Dir::Etc::SourceParts=-
  -o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch" -o APT::Sandbox::User=root)
"${apt[@]}" update
packages=(nlohmann-json3-dev doctest-dev libonnxruntime-dev libssl-dev)
(cd "$scratch" && "${apt[@]}" download "${packages[@]}")
for package in "$scratch"/*.deb; do
  dpkg -x "$package" "$scratch/root"
done

cp -r "$scratch"/root/usr/include/*-linux-gnu/openssl "$scratch/root/usr/include"
rm -f "$scratch"/root/usr/lib/*-linux-gnu/lib{crypto,ssl}.*

rm -rf "$prefix"
mkdir -p "$(dirname "$prefix")"
mv "$scratch/root/usr" "$prefix"
ln -s "$name" "$prefix/lib/libonnxruntime.so"
ln -s "$name" "$prefix/lib/libonnxruntime.so.1"
ln -s "$crypto" "$prefix/lib/libcrypto.so"
cp "$library" "$prefix/lib/$name"
