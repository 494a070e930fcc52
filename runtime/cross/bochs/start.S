// SPDX-License-Identifier: Apache-2.0
// From the boot loader's 32-bit mode (Multiboot 1) to 64-bit mode with AVX-512 enabled, and the entry of system calls.
// Everything runs in ring 0 at the address it was linked to; the first 4 GB are mapped one to one.

#define MULTIBOOT_MAGIC 0x1BADB002
#define MULTIBOOT_ADDRESSES (1 << 16)

    .section .text.start, "ax"
    .code32
header:
    .long MULTIBOOT_MAGIC, MULTIBOOT_ADDRESSES, -(MULTIBOOT_MAGIC + MULTIBOOT_ADDRESSES)
    .long header, header, load_end, bss_end, start

    .globl start
start:
    cli
    movl %ebx, %edi                 // boot information, main's argument
    // Page tables: one of 4 entries of 512 entries of 2 MB.
    movl $level3 + 3, level4
    movl $level2 + 3, %eax
    movl $level3, %edx
    movl $4, %ecx
1:  movl %eax, (%edx)
    addl $4096, %eax
    addl $8, %edx
    loop 1b
    movl $0x83, %eax
    movl $level2, %edx
    movl $2048, %ecx
2:  movl %eax, (%edx)
    addl $0x200000, %eax
    addl $8, %edx
    loop 2b
    movl $level4, %eax
    movl %eax, %cr3
    movl $0x40620, %eax             // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
    movl %eax, %cr4
    movl $0xC0000080, %ecx          // EFER: long mode, system calls
    movl $0x101, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80000033, %eax          // paging, protection; no emulation of floating point
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $start64

    .code64
start64:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %ecx, %ecx
    movl $0xE7, %eax                // x87, SSE, AVX, AVX-512 state
    xorl %edx, %edx
    xsetbv
    movl $0xC0000081, %ecx          // STAR: system calls stay in this code segment
    xorl %eax, %eax
    movl $8, %edx
    wrmsr
    movl $0xC0000082, %ecx          // LSTAR
    movl $system_call, %eax
    xorl %edx, %edx
    wrmsr
    movq $stack_end, %rsp
    call kernel_main

    .globl enter_program            // (entry, stack)
enter_program:
    movq %rsi, %rsp
    xorl %edx, %edx
    jmp *%rdi

// The program's stack has a red zone: the handler gets its own.
system_call:
    movq %rsp, program_stack
    movq $stack_end, %rsp
    pushq %rcx
    pushq %r11
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %r8
    pushq %r9
    pushq %r10
    movq %rdx, %rcx
    movq %rsi, %rdx
    movq %rdi, %rsi
    movq %rax, %rdi
    call handle_system_call
    popq %r10
    popq %r9
    popq %r8
    popq %rdx
    popq %rsi
    popq %rdi
    popq %r11
    popq %rcx
    movq program_stack, %rsp
    jmp *%rcx

    .data
    .balign 8
gdt:
    .quad 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF
gdt_pointer:
    .word 23
    .quad gdt

    .bss
    .balign 4096
level4: .skip 4096
level3: .skip 4096
level2: .skip 16384
stack:  .skip 65536
stack_end:
program_stack: .skip 8
    .section .note.GNU-stack, "", @progbits
