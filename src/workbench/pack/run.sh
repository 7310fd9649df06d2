#!/usr/bin/env bash
# Tests, training demonstrations and benches of autoassist on a machine with an NVIDIA GPU. Needs the
# NVIDIA driver, bash and the usual tools; no Rust, no CUDA toolkit, no network.
usage='bash run.sh OUT [STEP...]

Runs the steps, those that need the GPU first; without STEP all that OUT has no "passed" or "failed"
of yet, so that a run which was cut is gone on with by the same command. What a step prints goes to
OUT/STEP.txt, its results to OUT/STEP.json, and what became of it to OUT/summary.txt, each as soon
as it is known. Goes on after a failure; ends with status 1 if a step failed or was cut.

  STEP_SECONDS=N   a step is cut after so long (default 540)
  STEP_ARGS=WORDS  more arguments for the steps, such as STEP_ARGS="--epochs 1" bash run.sh OUT resnet
  CIFAR=DIR        images for the step resnet20: DIR/train/<class>/*.png, DIR/test/<class>/*.png'
set -u

# The order in which a GPU that is there for minutes only shows most.
steps=(
    nvidia-smi gpu oracle gpu-memcheck gpu-racecheck oracle-memcheck oracle-racecheck
    resnet transformer resnet20 loss-export
    ladder-gemm ladder-linear ladder-conv ladder-conv_backward ladder-attention ladder-copy
    bench-networks bench-ladders bench-gemm
    kernels gpu-simt oracle-cpu bench-networks-cpu
)

complain() {
    printf 'run.sh: %s\n' "$*" >&2
    exit 2
}

is_step() {
    local step
    for step in "${steps[@]}"; do
        [ "$step" != "$1" ] || return 0
    done
    return 1
}

case ${1:-} in
'' | -h | --help)
    printf '%s\n\nSteps: %s\n' "$usage" "${steps[*]}"
    [ $# -gt 0 ] || exit 2
    exit 0
    ;;
-*) complain "$1: no option; bash run.sh OUT [STEP...]" ;;
esac
out=$1
shift
! is_step "$out" || complain "$out is a step; name a folder for the results first: bash run.sh OUT $out"
for wanted in "$@"; do
    is_step "$wanted" || complain "no step is called $wanted; choose of ${steps[*]}"
done
limit=${STEP_SECONDS:-540}
[[ $limit =~ ^[1-9][0-9]*$ ]] || complain "STEP_SECONDS=$limit: a whole number of seconds, from 1 on"
command -v timeout >/dev/null || complain "no timeout; install coreutils"
read -ra more <<<"${STEP_ARGS:-}"
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 2

# Programs and fixtures travel in an archive. Which one they are from is noted: a newer pack may have been copied
# over this one.
unpack() {
    [ -e programs.tar.xz ] || return 0
    local sum
    sum=$(cksum <programs.tar.xz) || return 1
    [ "$(cat bin/.archive 2>/dev/null)" != "$sum" ] || return 0
    rm -rf bin cache tests unpacked && mkdir unpacked || return 1
    if command -v xz >/dev/null && command -v tar >/dev/null; then
        xz -dc programs.tar.xz | tar -xf - -C unpacked || return 1
    elif command -v python3 >/dev/null; then
        python3 -c 'import tarfile; tarfile.open("programs.tar.xz").extractall("unpacked")' || return 1
    else
        complain "cannot unpack programs.tar.xz; install xz-utils and tar, or python3"
    fi
    local folder
    for folder in cache tests; do
        if [ -e "unpacked/$folder" ]; then mv "unpacked/$folder" "$folder" || return 1; fi
    done
    printf '%s\n' "$sum" >unpacked/bin/.archive && mv unpacked/bin bin && rmdir unpacked
}
unpack || complain "cannot unpack programs.tar.xz into $PWD"
# Copies may have lost that.
chmod +x bin/* || exit 2
export REQUIRE_CUDA=1 RUST_BACKTRACE=1 ORACLE_DIR=tests/fixtures CRITERION_HOME="$out/criterion"

# record STEP WORD SECONDS NOTE: the only line of a step in the summary.
record() {
    {
        grep -v "^$1 " "$out/summary.txt" 2>/dev/null
        printf '%-22s %-8s %5s s  %s\n' "$@" | sed 's/ *$//'
    } >"$out/summary.new"
    mv "$out/summary.new" "$out/summary.txt"
}

ended() { grep -qE "^$1 +(passed|failed) " "$out/summary.txt" 2>/dev/null; }

failed=0 child=
# The step under way stands in the summary as cut already.
stop() {
    [ -z "$child" ] || { kill "$child" && wait "$child"; }
    printf '\n' && cat "$out/summary.txt"
    exit 130
}
trap stop INT TERM HUP

# run COMMAND...: of the present step.
run() {
    set -- "$@" ${more[@]+"${more[@]}"}
    local start=$SECONDS status seconds last word note
    printf '== %s: %s\n' "$step" "$*"
    rm -f "$out/$step.json"
    record "$step" cut 0 "started $(date -u +%FT%TZ), has not ended"
    timeout -k 10 "$limit" "$@" >"$out/$step.txt" 2>&1 </dev/null &
    child=$!
    wait "$child"
    status=$? child= seconds=$((SECONDS - start))
    last=$(tail -n 1 "$out/$step.txt")
    case $last in
    '{'*) printf '%s\n' "$last" >"$out/$step.json" ;;
    /*.json) [ ! -e "$last" ] || cp "$last" "$out/$step.json" ;;
    esac
    tail -n 3 "$out/$step.txt"
    word=failed note="exit $status, see $step.txt"
    case $status in
    0) word=passed note= ;;
    # What `timeout` ends with, unless somebody else has killed the step.
    124 | 137) [ "$seconds" -lt "$limit" ] || word=cut note="after $limit s, see $step.txt" ;;
    esac
    # One that only looks is no reason to fail.
    if [ "$word" != passed ]; then
        if [ "$step" = nvidia-smi ]; then note+=", does not count"; else failed=1; fi
    fi
    record "$step" "$word" "$seconds" "$note"
}

skip() { record "$step" skipped 0 "$*"; }

# checked TOOL PROGRAM...: under compute-sanitizer, which is a part of the CUDA toolkit.
checked() {
    local tool=$1
    shift
    if command -v compute-sanitizer >/dev/null; then
        run env AUTOASSIST_TEST_DEVICES=cuda compute-sanitizer --tool "$tool" --error-exitcode 9 "$@"
    else
        skip "no compute-sanitizer on the PATH"
    fi
}

step() {
    case $step in
    nvidia-smi)
        if command -v nvidia-smi >/dev/null; then run nvidia-smi -q; else skip "not installed"; fi
        ;;
    gpu) run env AUTOASSIST_TEST_DEVICES=cuda bin/test-gpu ;;
    oracle) run env AUTOASSIST_TEST_DEVICES=cuda bin/test-oracle ;;
    # One test is a kernel that faults, which is what the sanitizer would say.
    gpu-memcheck) checked memcheck bin/test-gpu --skip a_fault_is_reported ;;
    gpu-racecheck) checked racecheck bin/test-gpu --skip a_fault_is_reported ;;
    oracle-memcheck) checked memcheck bin/test-oracle ;;
    oracle-racecheck) checked racecheck bin/test-oracle ;;
    resnet | transformer) run "bin/$step" --device cuda --json --out "$out/runs-$step" ;;
    resnet20)
        if [ -n "${CIFAR:-}" ]; then
            run bin/resnet --data folder --data-dir "$CIFAR" --depth 20 --device cuda --json \
                --out "$out/runs-$step"
        else
            skip '$CIFAR names no folder of images'
        fi
        ;;
    loss-export) run bin/bench-loss_export --bench ;;
    # Predicted and measured times side by side. Kernels are compiled before they are profiled; these are already.
    ladder-*) run env XDG_CACHE_HOME="$PWD/cache" bin/kernels ladder "${step#ladder-}" --page "$out/$step.html" ;;
    bench-networks) run bin/bench-networks --bench /cuda/ ;;
    bench-networks-cpu) run bin/bench-networks --bench /cpu/ ;;
    bench-*) run "bin/$step" --bench ;;
    # What is no news of the GPU.
    kernels) run bin/kernels list ;;
    gpu-simt) run env -u REQUIRE_CUDA AUTOASSIST_TEST_DEVICES=simt bin/test-gpu ;;
    oracle-cpu) run env -u REQUIRE_CUDA AUTOASSIST_TEST_DEVICES=cpu,simt bin/test-oracle ;;
    esac
}

wanted=("$@")
if [ $# -eq 0 ]; then
    for step in "${steps[@]}"; do
        ended "$step" || wanted+=("$step")
    done
fi
printf 'autoassist on %s, %s\n' "$(uname -n)" "$(date -u +%FT%TZ)"
for step in ${wanted[@]+"${wanted[@]}"}; do
    case $step in
    # A run's folder from before the cut is no folder for a new run.
    resnet | transformer | resnet20) rm -rf "$out/runs-$step" ;;
    esac
    step
done
printf '\n'
cat "$out/summary.txt"
exit "$failed"
