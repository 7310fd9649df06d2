#!/usr/bin/env bash
# PyPI's CUDA toolkit, packages nvidia-cuda-nvcc, nvidia-cuda-cccl and cuda-toolkit.
#
# Expected: the parts of toolkit 13.5 have 13.5 in their numbers, as those of 13.0 have 13.0; so a
#   line that pins each of them can be raised by changing the numbers.
# Seen: nvidia-cuda-cccl left that numbering with 13.3. Toolkit 13.5.0 belongs together with cccl
#   13.3.5.0.6, and no cccl 13.5 exists. Only the package cuda-toolkit knows which ones do, by its
#   extras; and an extra that it does not have (nvdisasm in 13.0.3.0, which 13.5.0 has) is a
#   warning to pip, not an error: the command succeeds and the tool is not there.
# So: install 'cuda-toolkit[nvcc,cccl]==13.5.*', and look whether what you asked for came.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
pip() { "$folder/venv/bin/pip" --disable-pip-version-check "$@"; }
pip download -q --no-deps -d "$folder" cuda-toolkit==13.5.0 || exit 2
needs() { # what a toolkit's extra stands for
  python3 - "$folder" "$1" "$2" <<'PYTHON'
import glob, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(f"{sys.argv[1]}/cuda_toolkit-{sys.argv[2]}-*.whl")[0])
metadata = next(n for n in wheel.namelist() if n.endswith("METADATA"))
for line in wheel.read(metadata).decode().splitlines():
    if line.startswith("Requires-Dist:") and f'"{sys.argv[3]}"' in line.replace("'", '"'):
        print(line.split(";")[0].removeprefix("Requires-Dist:").strip())
PYTHON
}
pip download -q --no-deps -d "$folder" cuda-toolkit==13.0.3.0 || exit 2
nvcc=$(needs 13.5.0 nvcc | grep -i nvcc | head -1)
cccl=$(needs 13.5.0 cccl | grep -i cccl | head -1)
old=$(needs 13.0.3.0 nvdisasm)
new=$(needs 13.5.0 nvdisasm | head -1)
echo "toolkit 13.5.0, nvcc:       $nvcc"
echo "toolkit 13.5.0, cccl:       $cccl"
echo "toolkit 13.5.0, nvdisasm:   $new"
echo "toolkit 13.0.3.0, nvdisasm: ${old:-nothing}"
if pip download -q --no-deps -d "$folder" 'nvidia-cuda-cccl==13.5.*' 2>"$folder/said"; then
  echo "changed: there is a cccl 13.5"
  exit 1
fi
grep -q 'No matching distribution' "$folder/said" || exit 2
echo "nvidia-cuda-cccl==13.5.*:   none"
pip install --dry-run 'cuda-toolkit[nvdisasm]==13.0.3.0' >/dev/null 2>"$folder/said" || {
  echo "changed: an extra that is missing is an error"
  exit 1
}
grep -i 'does not provide' "$folder/said" || { echo "changed: no warning"; exit 1; }
[[ $nvcc == *13.5.* && $cccl == *13.3.* && $new == *13.5.* && -z $old ]] || { echo "changed"; exit 1; }
