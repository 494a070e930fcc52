#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Build and run the arm64 runtime on another machine, emulated.
#
#   runtime/cross/run_arm64.sh build DIR                             selftest, libedgefold_ops.so, without ONNX Runtime
#   runtime/cross/run_arm64.sh selftest DIR CPU                      all kernel variants that CPU has, against the reference
#   runtime/cross/run_arm64.sh driver DIR WHEEL                      ort_driver, linked to the arm64 wheel's libonnxruntime
#   runtime/cross/run_arm64.sh ort DIR CPU MODEL IN.bin OUT.bin DIM...   one model in arm64 ONNX Runtime with the library
#
# CPU: cortex-a53 (NEON), cortex-a76 (dot products), max (i8mm too). Debian packages: g++-aarch64-linux-gnu, qemu-user.
# WHEEL: pip download --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 --python-version 311 onnxruntime
set -eu

here=$(cd "$(dirname "$0")" && pwd)
action=$1
build=$2
shift 2

case $action in
  build)
    cmake -S "$here/.." -B "$build" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$here/aarch64.cmake" \
      -DEDGEFOLD_PYTHON=OFF -DEDGEFOLD_STATIC_SELFTEST=ON
    cmake --build "$build" --target selftest edgefold_ops
    ;;
  selftest)
    qemu-aarch64 -cpu "$1" "$build/selftest"
    ;;
  driver)
    mkdir -p "$build/ort"
    python3 -m zipfile -e "$1" "$build/wheel"
    cp "$build"/wheel/onnxruntime/capi/libonnxruntime.so.* "$build/ort/"
    newest=$(cd "$build/ort" && ls libonnxruntime.so.*.*)
    ln -sf "$newest" "$build/ort/libonnxruntime.so.1"
    ln -sf "$newest" "$build/ort/libonnxruntime.so"
    aarch64-linux-gnu-g++ -std=c++17 -O1 -Wall -Wextra -Werror -I "$here/.." -o "$build/ort_driver" "$here/ort_driver.cc" \
      -L "$build/ort" -lonnxruntime -Wl,-rpath-link,"$build/ort" -Wl,--allow-shlib-undefined
    ;;
  ort)
    cpu=$1
    model=$2
    shift 2
    # qemu looks up absolute paths below its -L folder first.
    root=$build/root-$cpu
    mkdir -p "$root/proc"
    ln -sfn /usr/aarch64-linux-gnu/lib "$root/lib"
    python3 "$here/fake_cpuinfo.py" "$cpu" > "$root/proc/cpuinfo"
    qemu-aarch64 -L "$root" -E LD_LIBRARY_PATH="$build/ort" -cpu "$cpu" "$build/ort_driver" \
      "$model" "$build/libedgefold_ops.so" "$@"
    ;;
  *)
    echo "run_arm64.sh: unknown action '$action'; expected build, selftest, driver or ort" >&2
    exit 2
    ;;
esac
