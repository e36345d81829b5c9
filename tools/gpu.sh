#!/usr/bin/env bash
# Everything that needs a GPU, most valuable first, in under ten minutes and without a network:
#     tools/gpu.sh FOLDER          or     make gpu OUT=FOLDER
# Needs a CUDA toolkit, and a python3 ($PYTHON) with torch 2.10 or later, ninja, pybind11, pytest, pytest-xdist, numpy,
# rich and matplotlib. Builds in place. Each part has a time limit of its own and a log in FOLDER, so that one that hangs
# or fails takes nothing from the rest; a table of all comes last. Parts may be named to run these alone. Exit code 1 if
# one failed.
set -uo pipefail
cd "$(dirname "$0")/.."

if [[ $# -lt 1 || $1 == -* ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
only=" $* "

python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD FORCE_CUDA=1
total_s=570 # for all parts together
summary=$out/summary.txt
: >"$summary"
failed=0

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "torch of $python sees no CUDA device" >&2
  exit 1
fi

# part NAME LIMIT_S COMMAND...: its row in the table ends with the last line of its log.
part() {
  local name=$1 limit=$2 begin=$SECONDS code verdict
  shift 2
  [[ $only == "  " || $only == *" $name "* ]] || return 0
  ((limit > total_s - SECONDS)) && limit=$((total_s - SECONDS))
  if ((limit < 5)); then
    failed=1
    printf '%-20s %-14s\n' "$name" "no time left" | tee -a "$summary"
    return 0
  fi
  echo "--- $name"
  timeout --kill-after=5 "$limit" "$@" </dev/null >"$out/$name.log" 2>&1
  code=$?
  case $code in
    0) verdict=ok ;;
    124 | 137) verdict="over $limit s" ;;
    *) verdict="failed ($code)" ;;
  esac
  if [[ $code != 0 ]]; then
    failed=1
    tail -n 25 "$out/$name.log"
  fi
  printf '%-20s %-14s %4d s  %s\n' "$name" "$verdict" $((SECONDS - begin)) \
    "$(grep -v -e '^\s*$' -e '^wrote' "$out/$name.log" | tail -n 1 | cut -c 1-100)" | tee -a "$summary"
}

sanitize() { # TOOL, and further options
  # Without torch's cache every tensor is an allocation of its own.
  part "sanitize-$1" 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 "${@:2}" "$python" tests/gpu/sanitize.py
}

part machine 30 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
part build 240 "$python" setup.py --quiet build_ext --inplace
part self-check 60 "$python" -m lstm_fused
part primitives 90 "$python" -m pytest -q -m gpu tests/gpu/test_cuda_primitives.py
part calls 90 "$python" -m pytest -q -m gpu -n 4 tests/gpu/test_cuda_calls.py tests/gpu/test_cuda_stream.py
part memory 60 "$python" -m pytest -q -m gpu tests/gpu/test_cuda_memory.py
part accuracy 180 "$python" -m pytest -q -m gpu -n 8 tests/gpu/test_cuda_accuracy.py
part compile 90 "$python" -m pytest -q -m "gpu and not slow" -n 8 tests/module/test_compile.py tests/module/test_export.py
sanitize memcheck --kernel-name kns=lstm_
sanitize racecheck --kernel-name kns=lstm_
part constants 90 "$python" -m bench.constants --out "$out"
part bench 180 "$python" -m bench --device cuda --limit 150 --out "$out"
part bench-graph 70 "$python" -m bench --device cuda --graph --group block step --limit 50 --budget 0.03 --out "$out"
sanitize synccheck --kernel-name kns=lstm_
sanitize initcheck # torch's kernels too: they write what ours read

echo
cat "$summary"
exit $failed
