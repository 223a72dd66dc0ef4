#!/usr/bin/env bash
# Where a GPU and nvcc are: builds with CUDA, runs the tests of the stages on the device, then one
# real model, checked against the CPU and timed, in one table. Run it from a checkout, in a virtual
# environment of its own:
#
#   tests/cuda/device.sh [model]    # a name of `f1 list` or a path; smollm2-135m
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pip install --quiet '.[test]' --config-settings=cmake.define.F1_CUDA=ON
nvcc -std=c++20 -O3 --expt-relaxed-constexpr --threads 0 \
  -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a \
  -I csrc -I tests/cuda csrc/core/*.cpp csrc/backend/sampl*.cpp csrc/model/model.cpp \
  csrc/weights/source.cpp csrc/backend/cuda/*.c* tests/cuda/{probe,on_device}.cpp -o "$work/probe"
F1_CUDA_PROBE="$work/probe" python -m pytest --quiet tests/test_cuda.py tests/test_cuda_build.py
cd tests && python cuda/device.py "${1:-smollm2-135m}"
