#!/usr/bin/env bash
# From a fresh clone to a pruned language model: installs what is missing, builds the program into build/, makes the
# King James Bible's text, and trains, prunes, retrains and measures a word-level LSTM on it.
#   tools/quickstart.sh [more options of `coppice run`, such as --set prune.sparsity=0.95]
set -euo pipefail
cd "$(dirname "$0")/.."

echo "== What is needed"
tools/dependencies.sh

echo "== The program: build/coppice"
settings=()
if [ ! -f build/CMakeCache.txt ]; then
  settings=(-DCMAKE_BUILD_TYPE=Release -DCOPPICE_TESTS=OFF)
  # Compiling for GPUs takes minutes, so only where there is one.
  cuda=OFF
  nvidia-smi >/dev/null 2>&1 && cuda=AUTO
  settings+=("-DCOPPICE_CUDA=$cuda")
fi
cmake -S . -B build -G Ninja "${settings[@]}" >build.log 2>&1 || { cat build.log >&2; exit 1; }
rm -f build.log
cmake --build build --target coppice
if cmake --build build --target help | grep -q '^coppice_cuda:'; then cmake --build build --target coppice_cuda; fi

echo "== The text: build/kjv.txt"
if [ ! -s build/kjv.txt ]; then
  # One verse a line after its reference; the reference goes.
  bible -f gen1:1-rev22:21 </dev/null | sed 's/^[^ ]* *//' >build/kjv.txt.partial
  mv build/kjv.txt.partial build/kjv.txt
fi
wc -lw build/kjv.txt | awk '{print $1 " verses, " $2 " words"}'

echo "== The job: coppice run tools/recipes/kjv_word_lm.toml"
build/coppice run tools/recipes/kjv_word_lm.toml -o build/kjv --force "$@"
echo "(The program is build/coppice; \`cmake --install build\` puts it on the path.)"
