#!/usr/bin/env bash
# nvdisasm 13.5.37 (CUDA 13), -gi or -g, of code by nvcc 13.0.88 with -lineinfo.
#
# Expected: each function's instructions have the line of the source that they come from in front.
# Seen: a line is printed where it differs from the last one that was printed, be that one of another
#   function. Where a function begins on the line on which the function before it in the listing ends
#   (instances of a template or a macro on one line), it has none, although the line table of the
#   file has one for it.
# So: whoever reads a listing function by function has to carry the line over from one to the next, in
#   the order of the listing, which is not the source's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install -q --disable-pip-version-check nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 \
  nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvdisasm==13.5.37 || exit 2
bin=$(echo "$folder"/venv/lib/python3*/site-packages/nvidia/cu13/bin)
a='__global__ void first(int *to) { *to = 1; }' b='__global__ void second(int *to) { *to = 2; }'
echo "$a $b" >"$folder/one.cu"
printf '%s\n%s\n' "$a" "$b" >"$folder/two.cu"
status=0
for case in 'one -gi 0 1' 'one -g 0 1' 'two -gi 1 1' 'two -g 1 1'; do
  read -r file how wanted <<<"$case"
  "$bin/nvcc" -cubin -arch=sm_90 -lineinfo -o "$folder/$file.cubin" "$folder/$file.cu" || exit 2
  "$bin/nvdisasm" -c "$how" "$folder/$file.cubin" >"$folder/$file.txt" || exit 2
  # Lines that each of the two functions has, the one with fewer first.
  got=$(awk '/^\/\/-+ \.text\./ { n++ } /\/\/## File/ { lines[n]++ } END { for (i = 1; i <= n; i++) print lines[i] + 0 }' \
    "$folder/$file.txt" | sort -n | xargs)
  echo "$how, two functions in $file line(s): lines printed in each: $got"
  [[ $got == "$wanted" ]] || { echo "changed: it was $wanted"; status=1; }
done
exit $status
