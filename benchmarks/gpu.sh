#!/usr/bin/env bash
# Runs all checks and benchmarks that need a CUDA GPU, from the source tree, in at most 480 s; prints a summary at the end.
#
#   benchmarks/gpu.sh [PYTHON]
#
# Checks: every Triton kernel against float64 at small and at real sizes, with outputs prefilled with NaN, and with planted
# bugs. Benchmarks whose packages are not installed (bitsandbytes, pydantic) are skipped with a message. Tables are
# appended to benchmarks/results/. Exit code 1 if a check failed.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${1:-python3}
export PYTHONPATH="$PWD:$PWD/benchmarks" PYTHONWARNINGS=ignore
LOG=$(mktemp -d)
failed=0

has() { "$PYTHON" -c "import $1" 2>/dev/null; }

run() { # name, seconds, command…
  local name=$1 limit=$2; shift 2
  if timeout "$limit" "$@" >"$LOG/$name.txt" 2>"$LOG/$name.err"; then
    echo "ok      $name"
  else
    echo "FAILED  $name (exit $?)"; tail -n 5 "$LOG/$name.err" | sed 's/^/        /'; failed=1
  fi
}

"$PYTHON" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || { echo "No CUDA device: nothing to measure."; exit 2; }
has triton || { echo "Triton is not installed: nothing to check."; exit 2; }

run kernels-small 80 "$PYTHON" -m tests.ops.triton_checks
run kernels-large 60 "$PYTHON" -m tests.ops.triton_checks --large
run kernels-planted 80 "$PYTHON" -m tests.ops.triton_checks --planted
run primitive 80 "$PYTHON" benchmarks/primitive.py --width 1024 4096 8192 --tokens 4096 --dtype bfloat16 --rounds 15
run crops 20 "$PYTHON" benchmarks/crops.py --dtype bfloat16
run nf4 20 "$PYTHON" benchmarks/nf4.py
if has pydantic && has peft && has transformers; then
  run layer 40 "$PYTHON" benchmarks/layer.py --tokens 4096 --rounds 9
  run step 40 "$PYTHON" benchmarks/step.py --base 100m --batch 16 --tokens 512
  run plan 20 "$PYTHON" benchmarks/plan.py
  if has bitsandbytes; then
    run layer-nf4 40 "$PYTHON" benchmarks/layer.py --tokens 4096 --rank 16 --rounds 9 --nf4
  else
    echo "skipped: layer-nf4 (bitsandbytes is not installed)"
  fi
else
  echo "skipped: layer, step, plan (they need pydantic, peft and transformers)"
fi

"$PYTHON" benchmarks/gpu_summary.py "$LOG" || failed=1
exit $failed
