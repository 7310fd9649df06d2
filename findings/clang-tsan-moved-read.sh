#!/usr/bin/env bash
# clang 18 (as PyPI's ziglang 0.13.0 has it), -fsanitize=thread.
#
# Expected: each thread's read of shared memory is a call of the sanitizer's, in each of the threads.
# Seen: from -O1 on the optimiser comes first. It moves a read into the branch that uses its
#   value, and only then are the calls put in: of a value that all threads read and one thread uses,
#   the sanitizer hears from that thread alone. The others' race with a writer cannot be found. The
#   read of `x += 1` has no call either, which matters to who looks for uninitialised memory. (g++ 12
#   does the first from -O1 on, by -ftree-sink, but not at -Og.)
# So: whoever looks for races of the source, rather than of this one compilation, wants -O0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install -q --disable-pip-version-check ziglang==0.13.0 || exit 2
export ZIG_GLOBAL_CACHE_DIR=$folder/cache ZIG_LOCAL_CACHE_DIR=$folder/cache
cat >"$folder/read.c" <<'C'
void for_one(const float *shared, float *to, int thread) {
    float v = shared[0];
    if (thread == 0) *to = v;
}
void add(int *x) { *x += 1; }
C
seen() { # of the function's beginning, which all threads run, and of x += 1: calls for reads
  python3 - "$1" <<'PYTHON'
import re, sys
text = open(sys.argv[1]).read()
body = lambda name: re.search(rf"^define [^\n]*@{name}\(.*?^}}", text, re.S | re.M).group()
start = body("for_one").split("  br ")[0]
calls = [len(re.findall(r"call void @__tsan_(?:unaligned_)?read", t)) for t in (start, body("add"))]
print(*calls)
PYTHON
}
status=0
for case in '-O0 1 0' '-O1 0 0' '-O2 0 0'; do
  read -r level wanted <<<"$case"
  "$folder/venv/bin/python" -m ziglang cc -target x86_64-linux-gnu "$level" -fsanitize=thread \
    -fno-sanitize=undefined -S -emit-llvm -o "$folder/read.ll" "$folder/read.c" || exit 2
  got=$(seen "$folder/read.ll")
  echo "$level: reads that all threads are seen to do, and of x += 1: $got"
  [[ $got == "$wanted" ]] || { echo "changed: it was $wanted"; status=1; }
done
exit $status
