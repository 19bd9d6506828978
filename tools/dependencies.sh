#!/usr/bin/env bash
# Installs, through apt, what building Coppice needs and this Debian (or Ubuntu) machine lacks.
#   tools/dependencies.sh            the program, and the text of the quick start
#   tools/dependencies.sh --tests    the tests too
#   tools/dependencies.sh --coverage, --bench    gcovr; Google Benchmark, and libraries that `coppice bench` measures beside ours
set -euo pipefail

packages=(g++ cmake ninja-build pkg-config libfmt-dev libcli11-dev nlohmann-json3-dev libtomlplusplus-dev libre2-dev
          zlib1g-dev bible-kjv)
for option in "$@"; do
  case "$option" in
    --tests) packages+=(libgtest-dev libgmock-dev libsimde-dev libonnx-testdata python3-dev python3-venv) ;;
    --coverage) packages+=(gcovr) ;;
    --bench) packages+=(libbenchmark-dev libdnnl-dev libopenblas-dev libeigen3-dev libgraphblas-dev) ;;
    *) echo "usage: tools/dependencies.sh [--tests] [--coverage] [--bench]" >&2; exit 2 ;;
  esac
done

command -v dpkg-query >/dev/null || { echo "No dpkg here: install yourself: ${packages[*]}" >&2; exit 1; }
missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "Installing through apt: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "Not root and no sudo. As root: apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { "${as_root[@]}" apt-get update && "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "apt failed: ${missing[*]} could not be installed." >&2
  exit 1
fi
