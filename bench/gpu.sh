#!/usr/bin/env bash
# What a machine with GPUs can check, from binaries that were built elsewhere with the features cuda
# and nccl (docs/gpu-and-cluster.md): every operator beside that of the CPU, the golden training of
# open_clip's steps on one GPU, two ranks over NCCL where there are two, and whole steps beside
# open_clip's.
#   bash bench/gpu.sh FOLDER_OF_BINARIES SHARED
# The folder holds on_device (a test binary of clipmill-kernels), golden_training, ranks (test binaries
# of clipmill-train) and train_step (its example).
set -uo pipefail
binaries="$1"
export CLIPMILL_SHARED="$2" CLIPMILL_TEST_DEVICE=cuda
here="$(dirname "${BASH_SOURCE[0]}")"
python="${PYTHON:-python3}"
# CUDA's and NCCL's libraries, where PyTorch brings them.
libraries="$("$python" - <<'END'
import glob, os, sysconfig
print(":".join(sorted({os.path.dirname(f) for f in glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib/*.so*")})))
END
)"
export LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}"
status=0
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$binaries/on_device" || status=1
"$binaries/golden_training" --test-threads=1 || status=1
if [ "$(nvidia-smi --list-gpus | wc -l)" -ge 2 ]; then
  "$binaries/ranks" --exact \
    two_ranks_are_one_with_the_double_batch_in_both_divisions_of_the_loss || status=1
fi
for batch in ${BATCHES:-64 256}; do
  "$python" "$here/train_step_vs_open_clip.py" "$binaries/train_step" --device cuda --bf16 \
    --batch "$batch" --model "${MODEL:-ViT-B-32}" || status=1
done
exit $status
