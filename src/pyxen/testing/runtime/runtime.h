/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The runtime of a small PV kernel: what kernel_main() finds.
 *
 * The kernel runs with the page tables that the domain builder has made: all of its image, and what
 * follows it, is mapped at VIRT_BASE, pfn after pfn. Traps are handled, the shared info page is
 * mapped, events are delivered when they are unmasked. Nothing else has been set up.
 */
#ifndef PYXEN_RUNTIME_H
#define PYXEN_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define __XEN_INTERFACE_VERSION__ __XEN_LATEST_INTERFACE_VERSION__
#include <xen/xen.h>
#include <xen/callback.h>
#include <xen/event_channel.h>
#include <xen/features.h>
#include <xen/grant_table.h>
#include <xen/memory.h>
#include <xen/nmi.h>
#include <xen/physdev.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/version.h>

/* Where pfn 0 is mapped: also in start.S and kernel.lds. */
#define VIRT_BASE 0xffffffff80000000ul
#define PAGE_SIZE 4096ul
#define PAGE_SHIFT 12
#define PTE_PRESENT 1ul
#define PTE_RW 2ul
#define PTE_USER 4ul
#define PTE_ACCESSED 0x20ul
#define PTE_DIRTY 0x40ul
#define PTE_PSE 0x80ul
#define PTE_NX (1ul << 63)
#define PTE_KERNEL (PTE_PRESENT | PTE_RW | PTE_ACCESSED | PTE_DIRTY)
#define PTE_READ_ONLY (PTE_PRESENT | PTE_ACCESSED | PTE_DIRTY)
#define PTE_FRAME 0x000ffffffffff000ul

/* Addresses that are never mapped, that are Xen's, and that are not canonical. */
#define UNMAPPED (VIRT_BASE + 0x30000000ul)
#define XEN_PRIVATE 0xffff820000000000ul
#define NON_CANONICAL 0x0000900000000000ul

/* Error numbers as Xen returns them. */
enum {
    XEN_EPERM = 1, XEN_ENOENT = 2, XEN_ESRCH = 3, XEN_E2BIG = 7, XEN_EAGAIN = 11, XEN_ENOMEM = 12,
    XEN_EACCES = 13, XEN_EFAULT = 14, XEN_EBUSY = 16, XEN_EEXIST = 17, XEN_ENODEV = 19,
    XEN_EINVAL = 22, XEN_ENOSPC = 28, XEN_ERANGE = 34, XEN_ENOSYS = 38, XEN_ENXIO = 6,
    XEN_ETIME = 62, XEN_EOPNOTSUPP = 95,
};

/* Hypercalls: hypercall(sched_op, SCHEDOP_yield, 0) makes __HYPERVISOR_sched_op by `syscall`. */

static inline long raw_hypercall(unsigned long number, unsigned long a1, unsigned long a2,
                                 unsigned long a3, unsigned long a4, unsigned long a5)
{
    register unsigned long r10 asm("r10") = a4;
    register unsigned long r8 asm("r8") = a5;

    asm volatile("syscall"
                 : "+a"(number), "+D"(a1), "+S"(a2), "+d"(a3), "+r"(r10), "+r"(r8)
                 :
                 : "rcx", "r11", "r9", "memory");
    return number;
}

#define HYPERCALL_6(number, a, b, c, d, e, ...)                                                   \
    raw_hypercall(number, (unsigned long)(a), (unsigned long)(b), (unsigned long)(c),             \
                  (unsigned long)(d), (unsigned long)(e))
#define hypercall(name, ...) HYPERCALL_6(__HYPERVISOR_##name, ##__VA_ARGS__, 0, 0, 0, 0, 0)
#define hypercall_number(number, ...) HYPERCALL_6(number, ##__VA_ARGS__, 0, 0, 0, 0, 0)

/* What Xen has given. */

extern start_info_t *start_info;
extern shared_info_t *shared_info;
extern uint8_t boot_stack[], boot_stack_end[], hypercall_page[];

static inline vcpu_info_t *vcpu_info(unsigned int vcpu)
{
    return &shared_info->vcpu_info[vcpu];
}

/* The console, checks and the end. */

/* Conversions: %d %u %x %s %c %p, with l for long; a field width and zeros before it for %x. */
void printk(const char *format, ...) __attribute__((format(printf, 1, 2)));
void shutdown(unsigned int code) __attribute__((noreturn));
/* Print "ok N checks" and power off, or, if a check has failed, "failed" and crash. */
void finish(void) __attribute__((noreturn));
/* For a scenario that must not come here: print why and crash. */
void fail(const char *why) __attribute__((noreturn));
bool check(bool good, const char *text, const char *file, int line);
bool check_equal(long got, long expected, const char *text, const char *file, int line);

/* A condition that must hold; a call that must give this number. Failures are printed. */
#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)
#define EXPECT(expected, expression)                                                              \
    check_equal((long)(expression), (long)(expected), #expression, __FILE__, __LINE__)

/* Memory. */

void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);
size_t strlen(const char *text);

/* A zeroed page, mapped writable, never used before. */
void *alloc_page(void);
/* A pfn of the domain's that the initial mapping does not reach. */
unsigned long alloc_unmapped_pfn(void);

static inline unsigned long pfn_to_mfn(unsigned long pfn)
{
    return ((unsigned long *)start_info->mfn_list)[pfn];
}
static inline unsigned long virt_to_pfn(const volatile void *address)
{
    return ((unsigned long)address - VIRT_BASE) >> PAGE_SHIFT;
}
static inline unsigned long virt_to_mfn(const volatile void *address)
{
    return pfn_to_mfn(virt_to_pfn(address));
}
static inline unsigned long virt_to_maddr(const volatile void *address)
{
    return virt_to_mfn(address) << PAGE_SHIFT | ((unsigned long)address & (PAGE_SIZE - 1));
}
static inline void *mfn_to_virt(unsigned long mfn)
{
    return (void *)(VIRT_BASE + (machine_to_phys_mapping[mfn] << PAGE_SHIFT));
}

/* Page tables. */

/* The table of this level that an address goes through, and the entry's machine address in it; 0
 * when there is none. Tables are mapped read-only. */
unsigned long *find_table(unsigned long address, unsigned int level);
unsigned long find_entry(unsigned long address, unsigned int level);
unsigned long read_entry(unsigned long address, unsigned int level);
/* One request of mmu_update: 0 or the error. */
long write_entry(unsigned long machine_address, unsigned long value);
/* Change the L1 entry of a mapped address. */
long map(const volatile void *address, unsigned long entry);
/* An mmuext_op with one argument of each kind: 0 or the error. */
long mmuext(unsigned int command, unsigned long arg1, unsigned long arg2);
/* Map a page read-only, as a page table must be. */
void make_read_only(void *page);
void make_writable(void *page);

/* Traps. Those above 31 are entries that are no exceptions. */

enum {
    NO_TRAP = -1,
    TRAP_DIVIDE = 0, TRAP_DEBUG = 1, TRAP_NMI = 2, TRAP_INT3 = 3, TRAP_OVERFLOW = 4,
    TRAP_INVALID_OPCODE = 6, TRAP_NO_DEVICE = 7, TRAP_DOUBLE_FAULT = 8, TRAP_INVALID_TSS = 10,
    TRAP_NO_SEGMENT = 11, TRAP_STACK = 12, TRAP_GENERAL_PROTECTION = 13, TRAP_PAGE_FAULT = 14,
    TRAP_ALIGNMENT = 17,
    TRAP_EVENT = 256, TRAP_SYSCALL = 257, TRAP_FAILSAFE = 258, TRAP_NMI_CALLBACK = 259,
    TRAP_OTHER = 260,
};

/* rcx and rip of a system call are the same. The upcall mask stands in the high half of cs. */
struct trap_frame {
    uint64_t vector, r15, r14, r13, r12, rbp, rbx, r10, r9, r8, rdi, rsi, rdx;
    uint64_t rax, r11, rcx, error, rip, cs, rflags, rsp, ss;
};

extern struct trap_frame last_trap;
extern unsigned long last_cr2;
extern unsigned int trap_counts[261];
/* Called first for each trap if set; true: handled, go on with the frame as it is now. */
extern bool (*trap_hook)(struct trap_frame *frame);
/* Called for each port with a pending event, after the bit has been cleared. */
extern void (*event_hook)(evtchn_port_t port);
extern unsigned int event_counts[4096];

extern void (*const trap_entries[32])(void);
void event_entry(void), syscall_entry(void), failsafe_entry(void), nmi_entry(void),
    other_entry(void);
void resume(struct trap_frame *frame) __attribute__((noreturn));
/* Give Xen the table of our handlers again. */
long set_trap_table(void);

int try_begin(void) __attribute__((returns_twice));
void try_abort(int vector) __attribute__((noreturn));
extern volatile int try_armed;
/* Execute a statement; the vector of the trap that has ended it, or NO_TRAP. On vCPU 0 only. What
 * the statement changes in local variables is lost if they are not volatile. */
#define TRY(...)                                                                                  \
    ({                                                                                            \
        int vector_ = try_begin();                                                                \
        if (vector_ == NO_TRAP) {                                                                 \
            __VA_ARGS__;                                                                          \
            asm volatile("" : : : "memory");                                                      \
            try_armed = 0;                                                                        \
        }                                                                                         \
        vector_;                                                                                  \
    })
/* Access memory: the vector or NO_TRAP. */
int try_read(const volatile void *address);
int try_write(volatile void *address, unsigned long value);

/* Events. */

static inline void mask_events(void)
{
    *(volatile uint8_t *)&vcpu_info(0)->evtchn_upcall_mask = 1;
}
/* Pending ones are delivered at once. */
void unmask_events(void);

/* Nanoseconds of Xen's system time. */
unsigned long system_time(void);

/* User mode. USER_CODE and USER_DATA are seen by both modes at the same address. */

#define USER_CODE __attribute__((section(".user_text"), noinline, used))
#define USER_DATA __attribute__((section(".user_data")))
extern uint8_t user_stack[4096];
/* The L4 table of user mode. */
extern unsigned long user_l4_mfn;
/* Make that table, if there is none yet, and name a stack for traps; run_user() does it, too. */
void prepare_user(void);
/* Call a USER_CODE function in user mode. What ends it: a trap's vector, or TRAP_SYSCALL with the
 * registers in last_trap. A return from the function is a page fault at address 0. */
int run_user(void (*code)(void), unsigned long rdi);
static inline unsigned long user_syscall(unsigned long number)
{
    asm volatile("syscall" : "+a"(number) : : "rcx", "r11", "memory");
    return number;
}

/* Other vCPUs. */

/* A context with which `code` runs on its own stack, and VCPUOP_initialise takes it. */
void prepare_vcpu(vcpu_guest_context_t *context, void (*code)(void), void *stack_end);
/* Initialise and start a vCPU below 32: 0 or the error. */
long start_vcpu(unsigned int vcpu, void (*code)(void));
void vcpu_entry(void);
void vcpu_down(void) __attribute__((noreturn));

/* Pseudo-random numbers, the same with each run. */
unsigned long random_number(void);
extern unsigned long random_state;

void kernel_main(void);

#endif
