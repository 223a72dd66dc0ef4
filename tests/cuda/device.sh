#!/usr/bin/env bash
# Where a GPU and nvcc are: builds with CUDA, runs the tests of the stages on the device, then one
# real model, checked against the CPU and timed, in one table. Needs no network, but the project's
# dependencies, pytest, and for the build scikit-build-core, pybind11 and ninja:
#
#   tests/cuda/device.sh [model]    # a name of `f1 list`, a path, or `none`; smollm2-135m
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
python3 -m pip install --quiet --no-deps --no-build-isolation --target "$work/site" . \
  --config-settings=cmake.define.F1_CUDA=ON --config-settings=build-dir="$work/build"
nvcc -std=c++20 -O3 --expt-relaxed-constexpr --threads 0 \
  -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a \
  -I csrc -I tests/cuda csrc/core/*.cpp csrc/backend/sampl*.cpp csrc/model/model.cpp \
  csrc/weights/source.cpp csrc/backend/cuda/*.c* tests/cuda/{probe,on_device}.cpp -o "$work/probe"

cp -r tests "$work/tests" # away from the checkout, whose f1/ has no compiled core
cd "$work/tests"
export PYTHONPATH="$work/site:$work/tests" F1_CUDA_PROBE="$work/probe"
run_tests() { python3 -m pytest --quiet -c /dev/null --rootdir . -p no:cacheprovider "$@"; }
run_tests test_cuda.py
run_tests -rs -k compute_sanitizer test_sanitizers.py # some minutes; skipped where there is none
if [ "${1:-}" != none ]; then python3 cuda/device.py "${1:-smollm2-135m}"; fi
