#!/usr/bin/env bash
# nvcc 13.0.88 and 13.5.37, from PyPI.
#
# Expected: fatbins are compressed, as they have been by default for many years.
# Seen: the PTX in them is; machine code lies there as it is, and is most of the file: with line
#   numbers (-lineinfo) the default is more than twice as large as it need be. -Xfatbin -compress-all
#   compresses it too, and --compress-mode=size better still.
# So: whoever embeds fatbins wants --compress-mode=size (13.0 and 13.5 have it) or -compress-all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/sum.cu" <<'CUDA'
template <int N> __device__ void sums(const float *in, float *out) {
    float sum[N] = {};
    for (int i = 0; i < 64; i++)
#pragma unroll
        for (int j = 0; j < N; j++) sum[j] += in[(i * N + j) * 256 + threadIdx.x] * float(i + j);
#pragma unroll
    for (int j = 0; j < N; j++) out[j * 256 + threadIdx.x] = sum[j];
}
__global__ void sum8(const float *in, float *out) { sums<8>(in, out); }
__global__ void sum32(const float *in, float *out) { sums<32>(in, out); }
__global__ void sum64(const float *in, float *out) { sums<64>(in, out); }
CUDA
status=0
for version in 13.0.3.0 13.5.0; do
  python3 -m venv "$folder/$version" || exit 2
  "$folder/$version/bin/pip" install -q --disable-pip-version-check \
    "cuda-toolkit[nvcc,cccl]==$version" || exit 2
  nvcc=$(echo "$folder/$version"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc)
  size() { # code, options: bytes of the fatbin
    "$nvcc" -fatbin -lineinfo -gencode="arch=compute_80,code=$1" "${@:2}" -o "$folder/out" "$folder/sum.cu"
    stat -c %s "$folder/out"
  }
  ptx=$(size compute_80) ptx_none=$(size compute_80 -no-compress)
  sass=$(size sm_80) sass_none=$(size sm_80 -no-compress)
  all=$(size sm_80 -Xfatbin -compress-all) least=$(size sm_80 --compress-mode=size)
  echo "toolkit $version, PTX: $ptx_none bytes uncompressed, $ptx by default"
  echo "toolkit $version, machine code: $sass_none uncompressed, $sass by default, $all with" \
    "-compress-all, $least with --compress-mode=size"
  ((2 * ptx < ptx_none && sass == sass_none && 2 * all < sass && least <= all)) || {
    echo "changed"
    status=1
  }
done
exit $status
