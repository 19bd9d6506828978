#!/usr/bin/env bash
# Everything that only a GPU can tell: the tests on it, its own memory and race checkers, and its speed.
#   tools/check_gpu.sh                 builds build-cuda/ and does all three pieces below
#   tools/check_gpu.sh --tests         every test; a backend that is missing is a failure
#   tools/check_gpu.sh --sanitizer     compute-sanitizer's memcheck and racecheck on the suites over operations
#   tools/check_gpu.sh --bench         benchmarks; writes bench/results/<card>-<date>.json and prints a table
#   --only REGEX      the suites, or benchmarks, whose names match: pieces of a piece
#   --build DIR       what is in this folder, without building: a build tree, or what --pack made
#   --results DIR     where the figures go instead of bench/results
#   tools/check_gpu.sh --pack DIR      builds for one architecture (COPPICE_GPU_ARCHITECTURE, 90 unless told) and
#                     puts into DIR what a machine without compilers or packages needs, below 64 MiB
# Exits non-zero when anything fails. The last line of the first two is "N passed, N failed, N skipped" (test cases).
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
pieces=() only="" build="" pack="" results=bench/results
while [ $# -gt 0 ]; do
  case "$1" in
    --tests | --sanitizer | --bench) pieces+=("${1#--}") ;;
    --only | --build | --pack | --results)
      [ $# -ge 2 ] || usage
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    *) usage ;;
  esac
  shift
done
[ ${#pieces[@]} -gt 0 ] || pieces=(tests sanitizer bench)

launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)

# configure FOLDER [cmake settings...]
configure() {
  local folder=$1
  shift
  tools/dependencies.sh --tests --bench
  echo "== Building $folder"
  cmake --preset cuda -B "$folder" "${launcher[@]}" "$@" >/dev/null
}

# The suites that run on a device. The others look at files, or at the program where it was built.
packed_suites=(backend dense sparse recurrence sequence optimizer prune layers reference train pipeline golden)

make_pack() {
  local folder=build-gpu-pack yardsticks file library kib
  configure $folder -DCMAKE_CUDA_ARCHITECTURES="${COPPICE_GPU_ARCHITECTURE:-90}-real"
  mapfile -t yardsticks < <(cmake --build $folder --target help | grep -oE '^(bench_recurrent_gpu_cudnn|bench_cusparse_algorithms|selection_cub):' |
    tr -d :)
  cmake --build $folder --target coppice coppice_cuda "${packed_suites[@]/#/test_}" bench_training \
    bench_selection_gpu bench_recurrent_gpu "${yardsticks[@]}" -- --quiet
  rm -rf "$pack"
  mkdir -p "$pack/tests" "$pack/bench" "$pack/lib"
  install -s $folder/coppice $folder/libcoppice_cuda.so "$pack"
  for file in "${packed_suites[@]}"; do
    install -s "$(find $folder/tests -type f -executable -name "test_$file")" "$pack/tests"
  done
  while read -r file; do install -s "$file" "$pack/bench"; done \
    < <(find $folder/bench -maxdepth 1 -type f -executable -name 'bench_*')
  # What these are linked to, but for what any machine with the vendor's libraries has, and newer than here perhaps.
  while read -r library; do cp -L "$library" "$pack/lib"; done < <(
    find "$pack" -type f -executable -exec ldd {} + 2>/dev/null | awk '$3 ~ /^\// { print $3 }' | sort -u |
      grep -Ev '/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libcu[a-zA-Z]*|libnv[a-zA-Z]*)\.so')
  kib=$(du -sk "$pack" | cut -f1)
  echo "$pack: $((kib / 1024)) MiB"
  [ "$kib" -lt $((64 * 1024)) ] || { echo "That is more than 64 MiB." >&2; exit 1; }
}

passed=0 failed=0 skipped=0 runs=()

# suite NAME LOG COMMAND...: runs a Google Test program and adds its cases to the counts.
suite() {
  local name=$1 log=$2 start=$SECONDS status=0
  shift 2
  local xml=$log.xml
  rm -f "$xml"
  GTEST_OUTPUT="xml:$xml" "$@" >"$log" 2>&1 || status=$?
  local p=0 f=0 s=0
  if [ -s "$xml" ]; then
    read -r p f s < <(awk '
      /<testcase / { total += 1; bad = 0; if (/result="skipped"/) skipped += 1; if (/status="notrun"/) total -= 1 }
      /<failure / && !bad { failures += 1; bad = 1 }
      END { printf "%d %d %d\n", total - failures - skipped, failures, skipped }' "$xml")
  fi
  # A failure outside of the cases (a checker's report, a crash) must not get lost.
  [ "$status" -eq 0 ] || [ "$f" -gt 0 ] || f=1
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  printf '%-28s %5d passed %4d failed %4d skipped %5d s\n' "$name" "$p" "$f" "$s" $((SECONDS - start))
  [ "$f" -eq 0 ] || tail -n 60 "$log"
}

# The suites of the build, as "name path".
suites() {
  find "$build" -type f -executable -name 'test_*' | sort | while read -r path; do
    local name=${path##*/test_}
    [[ $name =~ $only ]] && echo "$name $path"
  done
}

run_tests() {
  echo "== Tests"
  local name path before=$failed
  while read -r name path; do
    # The suite about loading brings a library of its own and looks for it first.
    if [ "$name" = loading ]; then
      suite "$name" "$logs/$name" env -u COPPICE_CUDA_LIBRARY \
        LD_LIBRARY_PATH="$(dirname "$path")/loadable:${LD_LIBRARY_PATH:-}" "$path"
    else
      suite "$name" "$logs/$name" "$path"
    fi
  done < <(suites)
  [ "$failed" -eq "$before" ]
}

run_sanitizer() {
  local sanitizer
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
  if [ -z "$sanitizer" ]; then
    echo "== No compute-sanitizer here: neither memcheck nor racecheck was run"
    return
  fi
  echo "== compute-sanitizer"
  # Without the cache of device memory, each tensor is an allocation whose ends memcheck knows.
  export COPPICE_CUDA_CACHE=0
  local tool name path
  for tool in memcheck racecheck; do
    while read -r name path; do
      [[ $name =~ ^(backend|dense|sparse|recurrence|sequence|optimizer|prune)$ ]] || continue
      suite "$tool: $name" "$logs/$tool-$name" "$sanitizer" --tool "$tool" --error-exitcode 9 "$path" \
        --gtest_filter='*cuda*'
    done < <(suites)
  done
  unset COPPICE_CUDA_CACHE
}

# measure NAME PROGRAM [options...]: a program that prints its figures as a line of JSON.
measure() {
  local name=$1 program=$build/bench/$2 out
  shift 2
  [[ $name =~ $only ]] || return 0
  [ -x "$program" ] || { echo "$program was not built" >&2; failed=$((failed + 1)); return; }
  out=$logs/$(tr / - <<<"$name").json
  echo "$name"
  "$program" "$@" >"$out" 2>"$out.log" || { tail -n 20 "$out.log"; failed=$((failed + 1)); return; }
  runs+=("$name=$out")
}

# suite_of_benchmarks NAME PROGRAM [options...]: a Google Benchmark program, whose benchmarks --only picks from.
suite_of_benchmarks() {
  local name=$1 program=$2 filter=--benchmark_filter=${only:-.*} out=$logs/$1.json list
  shift 2
  [ -x "$program" ] || return 0
  if ! list=$("$program" "$@" "$filter" --benchmark_list_tests 2>"$logs/$name.log"); then
    cat "$logs/$name.log"
    failed=$((failed + 1))
    return
  fi
  grep -q / <<<"$list" || return 0
  echo "$name: $(grep -c / <<<"$list") benchmarks"
  if "$program" "$@" "$filter" --benchmark_out="$out" --benchmark_out_format=json >"$logs/$name.log" 2>&1; then
    runs+=("$out")
  else
    tail -n 20 "$logs/$name.log"
    failed=$((failed + 1))
  fi
}

run_bench() {
  local card file program=$build/bench/bench_recurrent_gpu
  runs=()
  card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 | tr -cs '[:alnum:]\n' '-')
  echo "== Benchmarks on ${card:-an unnamed card}"
  # With cuDNN as the yardstick, where that program starts.
  if [ -x "${program}_cudnn" ] && ! ldd "${program}_cudnn" | grep -q 'not found'; then program+=_cudnn; fi
  suite_of_benchmarks recurrent "$program" --device cuda
  suite_of_benchmarks cusparse "$build/bench/bench_cusparse_algorithms"
  local criterion
  for criterion in magnitude taylor fisher; do
    measure "selection/$criterion" bench_selection_gpu --device cuda --criterion "$criterion"
  done
  measure selection/taylor-1e9 bench_selection_gpu --device cuda --criterion taylor --parameters 1000000000 --samples 5
  measure selection/sorting bench_selection_cub
  measure selection/sorting-1e9 bench_selection_cub 1000000000 0.9 5
  measure language-model/2x512 bench_training --device cuda --work train_lm --layers 2
  measure language-model/2x1500 bench_training --device cuda --work train_lm --layers 2 --hidden 1500 --time 35
  [ ${#runs[@]} -gt 0 ] || { echo "No benchmark was run"; failed=$((failed + 1)); return; }

  mkdir -p "$results"
  file=$results/${card:-gpu}-$(date +%F).json
  if command -v python3 >/dev/null; then
    python3 bench/gpu_results.py "$file" "${runs[@]}"
    echo "Written to $file"
  else
    echo "No python3 here, so no table. The figures are in: ${runs[*]}"
  fi
}

if [ -n "$pack" ]; then
  make_pack
  exit
fi
if [ -z "$build" ]; then
  build='build-cuda'
  configure "$build"
  cmake --build "$build" -- --quiet
fi
build=$(cd "$build" && pwd)
logs=$build/results
mkdir -p "$logs"

# The backend of this very build, and its libraries before those of the machine; the vendor's may lie in a Python
# environment.
export COPPICE_CUDA_LIBRARY=$build/libcoppice_cuda.so
export COPPICE_REQUIRE_BACKENDS=cpu,cuda COPPICE_TEST_DEVICE=cuda
export COPPICE_SOURCE_DIR=$PWD OMP_WAIT_POLICY=passive
vendor=/usr/local/cuda/lib64
if ldd "$COPPICE_CUDA_LIBRARY" 2>/dev/null | grep -q 'libcu.*not found' && command -v python3 >/dev/null; then
  vendor+=:$(python3 -c 'import glob, site
print(":".join(p for s in site.getsitepackages() for p in sorted(glob.glob(s + "/nvidia/*/lib"))))')
fi
libraries=$vendor
[ -d "$build/lib" ] && libraries=$build/lib:$vendor
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ ! -x "$build/coppice" ] || "$build/coppice" devices || true

for piece in "${pieces[@]}"; do "run_$piece" || true; done
[[ " ${pieces[*]} " == *" tests "* || " ${pieces[*]} " == *" sanitizer "* ]] &&
  echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
