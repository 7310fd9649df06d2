#!/usr/bin/env bash
# nvcc 13.0.88 and 13.5.37, from PyPI.
#
# Expected: what nvcc puts into a file as PTX, for the driver to compile one day, it treats alike for
#   all architectures.
# Seen: for compute_90 and newer it runs ptxas over PTX that no machine code is made of, and throws
#   the result away: mistakes in inline assembly end the build. For compute_80 and 89 it does not, and
#   the driver of a user is the first to look.
# So: ask for machine code of the same architecture beside the PTX (code=sm_80 and code=compute_80).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
printf '__global__ void zero(float *p) { p[threadIdx.x] = 0; }\n' >"$folder/zero.cu"
runs() { # version, architecture, code: how often ptxas runs
  local nvcc
  nvcc=$(echo "$folder/$1"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc)
  "$nvcc" --dryrun -fatbin -gencode="arch=$2,code=$3" -o "$folder/out" "$folder/zero.cu" 2>&1 |
    grep -cE '^#\$ *"?([^ ]*/)?ptxas' || true
}
status=0
for version in 13.0.3.0 13.5.0; do
  python3 -m venv "$folder/$version" || exit 2
  "$folder/$version/bin/pip" install -q --disable-pip-version-check \
    "cuda-toolkit[nvcc,cccl]==$version" || exit 2
  for case in compute_80,compute_80,0 compute_89,compute_89,0 compute_90,compute_90,1 \
    compute_100,compute_100,1 'compute_80,[sm_80,compute_80],1'; do
    arch=${case%%,*} wanted=${case##*,} code=${case#*,}
    code=${code%,*}
    count=$(runs "$version" "$arch" "$code")
    echo "toolkit $version, arch=$arch, code=$code: ptxas runs $count times"
    [[ $count == "$wanted" ]] || { echo "changed: it ran $wanted times"; status=1; }
  done
done
exit $status
