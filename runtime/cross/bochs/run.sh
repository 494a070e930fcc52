#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run a statically linked selftest on an emulated CPU with AVX-512 VNNI and VBMI (Bochs, model tigerlake).
#
#   cmake -S runtime -B build/static -DCMAKE_EXE_LINKER_FLAGS=-static && cmake --build build/static --target selftest
#   runtime/cross/bochs/run.sh build/static/selftest [cpu model] [seconds]
#
# Needs bochs, isolinux, xorriso, python3, gcc and the network (a Debian kernel and syslinux-common are downloaded, not installed).
# Slow (minutes), therefore a check by hand; qemu-user 7.2 and valgrind cannot execute AVX-512. The serial output goes to stdout.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
selftest=$(realpath "$1")
cpu=${2:-tigerlake}
limit=${3:-1500}
work=${EDGEFOLD_BOCHS_DIR:-${TMPDIR:-/tmp}/edgefold-bochs}

mkdir -p "$work/iso/isolinux"
cd "$work"

if [ ! -f vmlinuz ]; then
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
  apt-get download "$package" syslinux-common
  for archive in ./*.deb; do dpkg -x "$archive" root; done
  cp root/boot/vmlinuz-* vmlinuz
fi

gcc -static -O1 -o init "$here/init.c"
python3 "$here/initramfs.py" init "$selftest" iso/initrd.gz
cp vmlinuz iso/vmlinuz
cp /usr/lib/ISOLINUX/isolinux.bin root/usr/lib/syslinux/modules/bios/ldlinux.c32 iso/isolinux/
# Without XSAVEC (321), XSAVES (323) and PKU (515), whose state sizes this Bochs reports wrongly, Linux enables AVX-512.
cat > iso/isolinux/isolinux.cfg <<EOF
default edgefold
prompt 0
label edgefold
  kernel /vmlinuz
  append initrd=/initrd.gz console=ttyS0,115200 mitigations=off nokaslr clearcpuid=321,323,515 acpi=off earlyprintk=ttyS0,115200 ignore_loglevel
EOF
xorriso -as mkisofs -quiet -o boot.iso -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 \
  -boot-info-table iso

rm -f serial.txt
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
sleep 1
echo continue > debugger.rc # Debian builds Bochs with its debugger, which stops before the first instruction.
timeout "$limit" bochs -q -f bochsrc -rc debugger.rc > bochs.out 2>&1 &
emulator=$!
while kill -0 "$emulator" 2> /dev/null && ! grep -q 'EDGEFOLD END' serial.txt 2> /dev/null; do sleep 2; done
kill "$emulator" 2> /dev/null || true
wait
sed -n '/EDGEFOLD BEGIN/,/EDGEFOLD END/p' serial.txt
grep -q 'EDGEFOLD END exit 0' serial.txt
