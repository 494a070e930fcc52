// SPDX-License-Identifier: Apache-2.0
// As much of Linux as a static, single-threaded program needs to print and to allocate. Loads the boot loader's first
// module, a static ELF executable, and runs it; output goes to the first serial port.
#include <elf.h>
#include <stdint.h>

enum {
  kModuleCopy = 0x08000000,
  kBreakStart = 0x0C000000,
  kMapStart = 0x10000000,
  kMapEnd = 0x1E000000,
  kStackTop = 0x1F000000,
};
enum { kSerial = 0x3F8, kPowerOff = 0x8900 };
enum { kNoEntry = -2, kNoMemory = -12, kNotTerminal = -25, kNotImplemented = -38 };

void enter_program(uint64_t entry, uint64_t* stack);

static void Out(uint16_t port, uint8_t byte) { __asm__ volatile("outb %0, %1" : : "a"(byte), "Nd"(port)); }
static uint8_t In(uint16_t port) {
  uint8_t byte;
  __asm__ volatile("inb %1, %0" : "=a"(byte) : "Nd"(port));
  return byte;
}

static void Print(const char* text, uint64_t size) {
  for (uint64_t i = 0; i < size; ++i) {
    while ((In(kSerial + 5) & 0x20) == 0) continue;
    Out(kSerial, (uint8_t)text[i]);
  }
}

// 115200 baud, 8 bits.
static void OpenSerial(void) {
  Out(kSerial + 3, 0x80);
  Out(kSerial, 1);
  Out(kSerial + 1, 0);
  Out(kSerial + 3, 3);
}

static void PrintText(const char* text) {
  uint64_t size = 0;
  while (text[size] != 0) ++size;
  Print(text, size);
}

static void Stop(uint64_t status) {
  char digits[] = "000\n";
  for (int i = 2; i >= 0; --i, status /= 10) digits[i] = (char)('0' + status % 10);
  PrintText("EDGEFOLD END exit ");
  PrintText(digits);
  // The script ends the emulator when it reads the line above; this is for a run without the script.
  for (int i = 0; i < 100000000; ++i) __asm__ volatile("pause");
  for (const char* c = "Shutdown"; *c != 0; ++c) Out(kPowerOff, (uint8_t)*c);
  for (;;) __asm__ volatile("hlt");
}

static void Copy(void* to, const void* from, uint64_t size) {
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}
static void Clear(void* to, uint64_t size) {
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(0) : "memory");
}

static int64_t Break(uint64_t wanted) {
  static uint64_t end = kBreakStart;
  if (wanted >= kBreakStart && wanted < kMapStart) {
    if (wanted > end) Clear((void*)end, wanted - end);
    end = wanted;
  }
  return (int64_t)end;
}

// Memory is never given back: the self-test needs little.
static int64_t Map(uint64_t size) {
  static uint64_t next = kMapStart;
  size = (size + 4095) / 4096 * 4096;
  if (size > kMapEnd - next) return kNoMemory;
  const uint64_t at = next;
  next += size;
  Clear((void*)at, size);
  return (int64_t)at;
}

static int64_t SetThreadPointer(uint64_t code, uint64_t address) {
  if (code != 0x1002) return -22;  // ARCH_SET_FS only
  __asm__ volatile("wrmsr" : : "c"(0xC0000100), "a"((uint32_t)address), "d"((uint32_t)(address >> 32)));
  return 0;
}

static int64_t WriteVector(const uint64_t* vector, uint64_t count) {
  int64_t total = 0;
  for (uint64_t i = 0; i < count; ++i) {
    Print((const char*)vector[2 * i], vector[2 * i + 1]);
    total += (int64_t)vector[2 * i + 1];
  }
  return total;
}

int64_t handle_system_call(uint64_t number, uint64_t a, uint64_t b, uint64_t c) {
  switch (number) {
    case 1:  // write
      Print((const char*)b, c);
      return (int64_t)c;
    case 20:  // writev
      return WriteVector((const uint64_t*)b, c);
    case 9:  // mmap
      return Map(b);
    case 12:  // brk
      return Break(a);
    case 10:   // mprotect
    case 11:   // munmap
    case 202:  // futex
    case 273:  // set_robust_list
      return 0;
    case 16:  // ioctl
      return kNotTerminal;
    case 158:  // arch_prctl
      return SetThreadPointer(a, b);
    case 218:  // set_tid_address
      return 1;
    case 318:  // getrandom
      for (uint64_t i = 0; i < b; ++i) ((uint8_t*)a)[i] = (uint8_t)(i * 37 + 11);
      return (int64_t)b;
    case 60:   // exit
    case 231:  // exit_group
      Stop(a);
      return 0;
    case 89:   // readlink
    case 267:  // readlinkat
      return kNoEntry;
    default:
      return kNotImplemented;
  }
}

// Registers of the boot protocol: module count and list stand at bytes 20 and 24.
void kernel_main(const uint32_t* information) {
  OpenSerial();
  PrintText("EDGEFOLD BEGIN\n");
  if ((information[0] & 8) == 0 || information[5] == 0) Stop(126);
  const uint32_t* module = (const uint32_t*)(uint64_t)information[6];
  Copy((void*)kModuleCopy, (const void*)(uint64_t)module[0], module[1] - module[0]);
  const Elf64_Ehdr* file = (const Elf64_Ehdr*)kModuleCopy;
  const Elf64_Phdr* segments = (const Elf64_Phdr*)(kModuleCopy + file->e_phoff);
  uint64_t headers = 0;
  for (int i = 0; i < file->e_phnum; ++i) {
    const Elf64_Phdr* s = &segments[i];
    if (s->p_type != PT_LOAD) continue;
    if (s->p_offset == 0) headers = s->p_vaddr + file->e_phoff;
    Clear((void*)s->p_vaddr, s->p_memsz);
    Copy((void*)s->p_vaddr, (const void*)(kModuleCopy + s->p_offset), s->p_filesz);
  }
  uint64_t* random = (uint64_t*)(kStackTop - 64);
  char* name = (char*)(kStackTop - 32);
  Copy(name, "selftest", 9);
  random[0] = 0x5bd1e9955bd1e995;
  random[1] = 0x2545f4914f6cdd1d;
  const uint64_t start[] = {1, (uint64_t)name, 0, 0,
                            AT_PHDR, headers, AT_PHENT, sizeof(Elf64_Phdr), AT_PHNUM, file->e_phnum,
                            AT_PAGESZ, 4096, AT_ENTRY, file->e_entry, AT_RANDOM, (uint64_t)random, AT_SECURE, 0,
                            AT_NULL, 0};
  uint64_t* stack = (uint64_t*)(kStackTop - 1024);
  Copy(stack, start, sizeof start);
  enter_program(file->e_entry, stack);
}
