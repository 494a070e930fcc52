#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run a statically linked selftest on an emulated CPU with AVX-512 VNNI and VBMI (Bochs, model tigerlake).
#
#   cmake -S runtime -B build/static -DEDGEFOLD_STATIC_SELFTEST=ON && cmake --build build/static --target selftest
#   runtime/cross/bochs/run.sh build/static/selftest [cpu model] [seconds]
#
# Needs the Debian packages bochs, isolinux, syslinux-common, xorriso; python3 and gcc. A check by hand, since it takes minutes.
# qemu-user 7.2 and valgrind cannot execute AVX-512; Linux 6.1 does not survive on the AVX-512 models of Bochs 2.7, so
# kernel.c stands in for it.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
selftest=$(realpath "$1")
cpu=${2:-tigerlake}
limit=${3:-1500}
modules=${SYSLINUX_MODULES:-/usr/lib/syslinux/modules/bios}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

gcc -O1 -ffreestanding -fno-stack-protector -fno-pic -fno-pie -mno-red-zone -mgeneral-regs-only -mcmodel=small -Wall -Wextra \
  -Werror -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,max-page-size=4096 -Wl,-T,"$here/kernel.ld" -o kernel.elf \
  "$here/start.S" "$here/kernel.c"
mkdir -p iso/isolinux
objcopy -O binary kernel.elf iso/kernel
cp "$selftest" iso/selftest
cp /usr/lib/ISOLINUX/isolinux.bin "$modules/ldlinux.c32" "$modules/mboot.c32" "$modules/libcom32.c32" iso/isolinux/
cat > iso/isolinux/isolinux.cfg <<EOF
default edgefold
prompt 0
label edgefold
  kernel mboot.c32
  append /kernel --- /selftest
EOF
xorriso -as mkisofs -quiet -o boot.iso -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 \
  -boot-info-table iso

cat > bochsrc <<EOF
cpu: model=$cpu, count=1, ips=200000000, reset_on_triple_fault=0
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=socket-client, dev=127.0.0.1:5901
display_library: rfb, options="timeout=20"
clock: sync=none
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
panic: action=fatal
log: bochs.log
EOF
python3 "$here/viewer.py" serial.txt &
viewer=$!
sleep 1
echo continue > debugger.rc # Debian builds Bochs with its debugger, which stops before the first instruction.
timeout "$limit" bochs -q -f bochsrc -rc debugger.rc > bochs.out 2>&1 &
emulator=$!
while kill -0 "$emulator" 2> /dev/null && ! grep -q 'EDGEFOLD END' serial.txt 2> /dev/null; do sleep 1; done
kill "$emulator" "$viewer" 2> /dev/null || true
wait
sed -n '/EDGEFOLD BEGIN/,/EDGEFOLD END/p' serial.txt
if ! grep -q 'EDGEFOLD END exit 000' serial.txt; then
  grep -aE 'PANIC|exception|RIP=' bochs.log bochs.out | tail -n 5 >&2
  exit 1
fi
