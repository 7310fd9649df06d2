#!/usr/bin/env bash
# Tests, a training demonstration and benches of autoassist on a machine with an NVIDIA GPU. Needs
# the NVIDIA driver, bash and the usual tools; no Rust, no CUDA toolkit, no network.
#
#   bash run.sh [OUT]     logs and JSON results go to OUT (default ./out), summary.txt first
#   CIFAR=DIR             also trains a ResNet-20 on DIR/train/<class>/*.png, DIR/test/<class>/*.png
#
# Goes on after a failure; ends with status 1 if there was one.
set -u

out=${1:-out}
if [ -e "$out/summary.txt" ]; then
    echo "run.sh: $out holds results already; name another folder: bash run.sh OUT" >&2
    exit 2
fi
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 2
# Programs travel compressed.
for program in bin/*.gz; do
    [ ! -e "$program" ] || gunzip -f "$program" || exit 2
done
export REQUIRE_CUDA=1 RUST_BACKTRACE=1
failed=0

note() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }

# step NAME COMMAND...: its output becomes NAME.log, a last line of JSON NAME.json.
step() {
    local name=$1 start=$SECONDS status
    shift
    printf '== %s: %s\n' "$name" "$*"
    timeout -k 10 1800 "$@" >"$out/$name.log" 2>&1
    status=$?
    tail -n 3 "$out/$name.log"
    tail -n 1 "$out/$name.log" | grep '^{' >"$out/$name.json" || rm "$out/$name.json"
    note "$(printf '%-24s exit %3d  %5d s' "$name" "$status" $((SECONDS - start)))"
    [ "$status" -eq 0 ] || failed=1
}

note "autoassist on $(uname -n), $(date -u +%FT%TZ)"
if command -v nvidia-smi >/dev/null; then
    step nvidia-smi bash -c 'set -o pipefail; nvidia-smi -q | sed -n 1,80p'
else
    note "nvidia-smi               skipped, not installed"
fi
step kernels bin/kernels list
step oracle env ORACLE_DIR=tests/fixtures bin/test-oracle
step gpu bin/test-gpu
step demonstration bin/resnet --device cuda --json --out "$out/demonstration"
if [ -n "${CIFAR:-}" ]; then
    step resnet20 bin/resnet --data folder --data-dir "$CIFAR" --depth 20 --device cuda --json \
        --out "$out/resnet20"
else
    note 'resnet20                 skipped, $CIFAR names no folder of images'
fi
# Predicted and measured times side by side.
for op in copy gemm conv conv_backward attention; do
    step "ladder-$op" bin/kernels ladder "$op" --page "$out/ladder-$op.html"
done
for bench in bin/bench-*; do
    step "${bench#bin/}" env CRITERION_HOME="$out/criterion" "$bench" --bench
done
note "$([ "$failed" -eq 0 ] && echo 'all passed' || echo 'FAILED')"
exit "$failed"
