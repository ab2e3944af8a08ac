# SPDX-License-Identifier: GPL-2.0-or-later
# The first instructions of a small PV kernel, its Xen notes, and what traps enter.
#
# Xen starts the kernel with paging on and rsi at start_info. A trap comes with the frame of a
# hardware interrupt and rcx, r11 below it; the iret hypercall wants rax, r11, rcx, flags there. So
# an entry turns the one into the other (the error code's word becomes the flags), pushes the other
# registers and the vector, and calls C with a struct trap_frame.

#define __ASSEMBLY__
#include <xen/xen.h>
#include <xen/elfnote.h>

.macro note type:req, size:req, value:vararg
        .pushsection .note.Xen, "a", @note
        .balign 4
        .long 4, 2f - 1f, \type
        .asciz "Xen"
1:      \size \value
2:      .balign 4
        .popsection
.endm

        note XEN_ELFNOTE_XEN_VERSION, .asciz, "xen-3.0"
        note XEN_ELFNOTE_GUEST_OS, .asciz, "pyxen-testing"
        note XEN_ELFNOTE_LOADER, .asciz, "generic"
        note XEN_ELFNOTE_PAE_MODE, .asciz, "yes"
        note XEN_ELFNOTE_VIRT_BASE, .quad, 0xffffffff80000000
        note XEN_ELFNOTE_PADDR_OFFSET, .quad, 0
        note XEN_ELFNOTE_ENTRY, .quad, _start
        note XEN_ELFNOTE_HYPERCALL_PAGE, .quad, hypercall_page

        .text
        .globl _start
_start:
        cld
        lea     boot_stack_end(%rip), %rsp
        xor     %ebp, %ebp
        mov     %rsi, %rdi
        call    runtime_start
        ud2

        .balign 4096
        .globl hypercall_page
hypercall_page:
        .skip 4096

.macro push_rest
        push    %rcx
        push    %r11
        push    %rax
        push    %rdx
        push    %rsi
        push    %rdi
        push    %r8
        push    %r9
        push    %r10
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
.endm

# After push_rest and the vector.
enter_c:
        cld
        mov     %rsp, %rdi
        mov     %rsp, %rbx
        and     $-16, %rsp
        call    runtime_trap
        mov     %rbx, %rsp
        .globl  resume_frame
resume_frame:
        add     $8, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rdx
        movq    $0, 24(%rsp)
        mov     $__HYPERVISOR_iret, %eax
        syscall
        ud2

# void resume(struct trap_frame *)
        .globl  resume
resume:
        mov     %rdi, %rsp
        jmp     resume_frame

.macro entry name, vector, code=0
        .globl  \name
\name:
        pop     %rcx
        pop     %r11
        .if !\code
        push    $0
        .endif
        push_rest
        push    $\vector
        jmp     enter_c
.endm

.macro trap_entry number
        .if \number == 8 || (\number >= 10 && \number <= 14) || \number == 17
        entry   trap_\number, \number, 1
        .else
        entry   trap_\number, \number
        .endif
        .pushsection .rodata
        .quad   trap_\number
        .popsection
.endm

        .pushsection .rodata
        .balign 8
        .globl  trap_entries
trap_entries:
        .popsection
        .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
        trap_entry \number
        .endr

        entry   event_entry, 256
        entry   syscall_entry, 257

# The failsafe callback: ds, es, fs, gs stand above rcx and r11.
        .globl  failsafe_entry
failsafe_entry:
        pop     %rcx
        pop     %r11
        add     $32, %rsp
        push    $0
        push_rest
        push    $258
        jmp     enter_c

        entry   nmi_entry, 259
        entry   other_entry, 260

# int try_begin(void): NO_TRAP; a second time, the vector, when a trap ends the attempt.
        .globl  try_begin
try_begin:
        pop     %rdx
        mov     %rbx, try_state
        mov     %rbp, try_state + 8
        mov     %r12, try_state + 16
        mov     %r13, try_state + 24
        mov     %r14, try_state + 32
        mov     %r15, try_state + 40
        mov     %rsp, try_state + 48
        mov     %rdx, try_state + 56
        movl    $1, try_armed
        mov     $-1, %eax
        jmp     *%rdx

# void try_abort(int vector)
        .globl  try_abort
try_abort:
        movl    $0, try_armed
        mov     %edi, %eax
        mov     try_state, %rbx
        mov     try_state + 8, %rbp
        mov     try_state + 16, %r12
        mov     try_state + 24, %r13
        mov     try_state + 32, %r14
        mov     try_state + 40, %r15
        mov     try_state + 48, %rsp
        cld
        jmp     *try_state + 56

# Where a second vCPU begins: rdi is the function to call.
        .globl  vcpu_entry
vcpu_entry:
        cld
        xor     %ebp, %ebp
        call    *%rdi
        jmp     vcpu_down

        .bss
        .balign 16
        .globl  boot_stack, boot_stack_end
boot_stack:
        .skip   32768
boot_stack_end:
try_state:
        .skip   64

        .section .note.GNU-stack, "", @progbits
