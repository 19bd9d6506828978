#!/usr/bin/env bash
# Builds and runs every test: the ordinary build, then one under the address and undefined-behaviour sanitizers; then
# those that look for races in CUDA kernels, under the thread sanitizer. Where the processor has AVX2 but no AVX-512, both
# builds run the kernels for AVX-512 emulated (tests/emulated_avx512).
#   tools/test.sh              all of it
#   tools/test.sh --quick      the inner loop: the fast suites of build/ alone
#   tools/test.sh --coverage   lines and branches that the tests reach, in build-coverage/
# Exits non-zero when anything fails. The last line is "N passed, N failed, N skipped" (test cases).
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-all}
case "$mode" in
  all | --quick | --coverage) ;;
  *) echo "usage: tools/test.sh [--quick | --coverage]" >&2; exit 2 ;;
esac

passed=0 failed=0 skipped=0
skip_lines=""

if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache; fi

# build FOLDER [cmake settings...]; $target alone where it is set
target=all
build() {
  local folder=$1
  shift
  echo "== Building $folder"
  cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCOPPICE_TESTS=ON "$@" >/dev/null
  cmake --build "$folder" --target "$target" -- --quiet
}

# The Python package's build and tests want nanobind, NumPy and pytest: COPPICE_TEST_PYTHON names an interpreter that has
# them, else an environment is made in build/ where a package index can be reached. Without, its suite says so.
python=()
find_python() {
  local interpreter=${COPPICE_TEST_PYTHON:-$PWD/build/python-environment/bin/python}
  if [ -z "${COPPICE_TEST_PYTHON:-}" ] && ! "$interpreter" -c "import nanobind, numpy, pytest" 2>/dev/null; then
    echo "== Installing what the Python package's tests need"
    python3 -m venv build/python-environment &&
      "$interpreter" -m pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt ||
      { echo "No package index: the Python package is not tested" >&2; return 0; }
  fi
  python=(-DPython_EXECUTABLE="$interpreter")
}

# AVX-512 is emulated where it must be and AVX2 can do it.
emulation=(-DCOPPICE_EMULATE_AVX512=OFF)
if grep -qw avx2 /proc/cpuinfo && ! grep -qw avx512bw /proc/cpuinfo; then emulation=(-DCOPPICE_EMULATE_AVX512=ON); fi

# Adds the cases of one suite to the counts. Google Test writes one XML a suite; a suite without (it crashed, or is
# not a Google Test) counts as one case, by what ctest says of it.
count_suite() {
  local name=$1 status=$2 xml=$3 label=$4
  if [ ! -s "$xml" ]; then
    if [ "$status" = run ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    return
  fi
  local counts
  counts=$(awk '
    /<testcase / { total += 1; this_failed = 0; if (/result="skipped"/) skipped += 1; if (/status="notrun"/) total -= 1 }
    /<failure / && !this_failed { failures += 1; this_failed = 1 }
    END { printf "%d %d %d", total - failures - skipped, failures, skipped }' "$xml")
  read -r p f s <<<"$counts"
  # A failure outside of the cases (a sanitizer report at exit, a crash after the last case) must not get lost.
  [ "$status" != run ] && [ "$f" -eq 0 ] && f=1
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  skip_lines+=$(awk -v suite="$label$name" '
    /<testcase / { match($0, / name="[^"]*"/); test = substr($0, RSTART + 7, RLENGTH - 8)
                   if (match($0, /classname="[^"]*"/)) test = substr($0, RSTART + 11, RLENGTH - 12) "." test }
    /<skipped message=/ { match($0, /message="[^"]*"/); why = substr($0, RSTART + 9, RLENGTH - 10)
                          sub(/&#x0A;Google Test trace:.*/, "", why)
                          sub(/^.*&#x0A;/, "", why); print "  " suite ": " test ": " why }' "$xml")
  [ -z "$skip_lines" ] || [ "${skip_lines: -1}" = $'\n' ] || skip_lines+=$'\n'
}

# run FOLDER LABEL [ctest options...]
run() {
  local folder=$1 label=$2
  shift 2
  echo "== Testing $folder"
  rm -rf "$folder/results"
  mkdir -p "$folder/results"
  local junit=$PWD/$folder/results/ctest.junit
  # OpenMP's workers sleep between parallel regions: beside another suite, spinning costs more than it gains.
  GTEST_OUTPUT=xml:$PWD/$folder/results/ OMP_WAIT_POLICY=passive \
    UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 \
    ctest --test-dir "$folder" --output-on-failure --no-tests=error -j "$(nproc)" --output-junit "$junit" "$@" || true
  [ -s "$junit" ] || { echo "ctest gave no results in $folder" >&2; failed=$((failed + 1)); return; }
  local name status
  while read -r name status; do
    count_suite "$name" "$status" "$folder/results/test_$name.xml" "$label"
  done < <(awk '/<testcase / { match($0, / name="[^"]*"/); name = substr($0, RSTART + 7, RLENGTH - 8)
                              match($0, / status="[^"]*"/); print name, substr($0, RSTART + 9, RLENGTH - 10) }' "$junit")
}

report() {
  if [ -n "$skip_lines" ]; then
    echo "== Skipped, and why"
    printf '%s' "$skip_lines" | sort | uniq
  fi
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

case "$mode" in
  --quick)
    tools/dependencies.sh --tests
    find_python
    build build "${python[@]}" "${emulation[@]}"
    run build "" -L fast
    ;;
  --coverage)
    tools/dependencies.sh --tests --coverage
    build build-coverage -DCOPPICE_COVERAGE=ON
    # What gcov has to say of counters that don't merge is no output of the program under test.
    export GCOV_ERROR_FILE=$PWD/build-coverage/gcov.log
    run build-coverage ""
    gcovr --root . --object-directory build-coverage --filter 'engine/' --filter 'kernels/' --filter 'tools/' \
      --exclude-unreachable-branches --exclude-throw-branches --sort-uncovered || true
    echo "== The CUDA backend, executed on the host"
    gcovr --root . --object-directory build-coverage --filter 'kernels/cuda/' --fail-under-line 95 \
      --print-summary || failed=$((failed + 1))
    ;;
  all)
    tools/dependencies.sh --tests
    find_python
    build build "${python[@]}" "${emulation[@]}"
    run build ""
    build build-asan -DCOPPICE_SANITIZE=address,undefined
    run build-asan "sanitizers: "
    target=cuda_races
    build build-tsan -DCOPPICE_SANITIZE=thread
    run build-tsan "races: " -L races
    ;;
esac
report
