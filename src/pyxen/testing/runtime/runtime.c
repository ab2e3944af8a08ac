/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The runtime of a small PV kernel: see runtime.h. */

#include "runtime.h"

#include <stdarg.h>

#define LEVEL_SHIFT(level) (12 + 9 * ((level) - 1))
#define ENTRY_INDEX(address, level) ((address) >> LEVEL_SHIFT(level) & 511)
#define CPU_FLAGS 0x202ul
#define MAX_VCPUS 32 /* that have a vcpu_info in the shared info page */

start_info_t *start_info;
shared_info_t *shared_info;
struct trap_frame last_trap;
unsigned long last_cr2;
unsigned int trap_counts[261];
unsigned int event_counts[4096];
bool (*trap_hook)(struct trap_frame *frame);
void (*event_hook)(evtchn_port_t port);
volatile int try_armed;
unsigned long user_l4_mfn;
unsigned long random_state = 0x9e3779b97f4a7c15ul;
USER_DATA uint8_t user_stack[4096] __attribute__((aligned(4096)));

extern uint8_t _user_text[], _user_text_end[], _user_data[], _user_data_end[];

static uint8_t shared_info_page[PAGE_SIZE] __attribute__((aligned(4096)));
static uint8_t trap_stack[16384] __attribute__((aligned(16)));
static unsigned long next_page, end_of_pages, next_unmapped;
static unsigned int checks, failures;
static uint8_t *stacks[MAX_VCPUS];

/* Memory */

void *memset(void *to, int byte, size_t size)
{
    void *start = to;

    asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
    return start;
}

void *memcpy(void *to, const void *from, size_t size)
{
    void *start = to;

    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return start;
}

int memcmp(const void *a, const void *b, size_t size)
{
    const uint8_t *x = a, *y = b;

    for (; size; x++, y++, size--)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t strlen(const char *text)
{
    size_t length = 0;

    while (text[length])
        length++;
    return length;
}

void *alloc_page(void)
{
    void *page = (void *)next_page;

    if (next_page >= end_of_pages)
        fail("alloc_page: no page left");
    next_page += PAGE_SIZE;
    return memset(page, 0, PAGE_SIZE);
}

unsigned long alloc_unmapped_pfn(void)
{
    if (next_unmapped >= start_info->nr_pages)
        fail("alloc_unmapped_pfn: no page left");
    return next_unmapped++;
}

/* Console */

static char line[256];
static size_t line_length;

static void put(char c)
{
    if (line_length < sizeof(line))
        line[line_length++] = c;
}

static void put_number(unsigned long value, unsigned int base, int width)
{
    char digits[24];
    int count = 0;

    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    while (width-- > count)
        put('0');
    while (count)
        put(digits[--count]);
}

void printk(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    line_length = 0;
    for (; *format; format++) {
        int width = 0;
        bool is_long = false;

        if (*format != '%') {
            put(*format);
            continue;
        }
        for (format++; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + *format - '0';
        for (; *format == 'l' || *format == 'z'; format++)
            is_long = true;
        switch (*format) {
        case 'd': {
            long value = is_long ? va_arg(arguments, long) : va_arg(arguments, int);

            if (value < 0)
                put('-');
            put_number(value < 0 ? -(unsigned long)value : (unsigned long)value, 10, width);
            break;
        }
        case 'u':
        case 'x':
            put_number(is_long ? va_arg(arguments, unsigned long)
                               : va_arg(arguments, unsigned int),
                       *format == 'u' ? 10 : 16, width);
            break;
        case 'p':
            put_number((unsigned long)va_arg(arguments, void *), 16, 16);
            break;
        case 's':
            for (const char *text = va_arg(arguments, const char *); *text; text++)
                put(*text);
            break;
        case 'c':
            put((char)va_arg(arguments, int));
            break;
        default:
            put(*format);
        }
    }
    va_end(arguments);
    hypercall(console_io, CONSOLEIO_write, line_length, line);
}

void shutdown(unsigned int code)
{
    sched_shutdown_t argument = {.reason = code};

    for (;;)
        hypercall(sched_op, SCHEDOP_shutdown, &argument);
}

void finish(void)
{
    if (!failures && checks) {
        printk("ok %u checks\n", checks);
        shutdown(SHUTDOWN_poweroff);
    }
    printk("failed: %u of %u checks\n", failures, checks);
    shutdown(SHUTDOWN_crash);
}

void fail(const char *why)
{
    printk("failed: %s\n", why);
    shutdown(SHUTDOWN_crash);
}

bool check(bool good, const char *text, const char *file, int number)
{
    checks++;
    if (!good) {
        failures++;
        printk("%s:%d: not so: %s\n", file, number, text);
    }
    return good;
}

bool check_equal(long got, long expected, const char *text, const char *file, int number)
{
    checks++;
    if (got == expected)
        return true;
    failures++;
    if ((got | expected) > -4096 && got < 65536)
        printk("%s:%d: %ld, expected %ld: %s\n", file, number, got, expected, text);
    else
        printk("%s:%d: %lx, expected %lx: %s\n", file, number, (unsigned long)got,
               (unsigned long)expected, text);
    return false;
}

/* Page tables */

unsigned long *find_table(unsigned long address, unsigned int level)
{
    unsigned long *table = (unsigned long *)start_info->pt_base;

    for (unsigned int at = 4; at > level; at--) {
        unsigned long entry = table[ENTRY_INDEX(address, at)];

        if (!(entry & PTE_PRESENT))
            return NULL;
        table = mfn_to_virt((entry & PTE_FRAME) >> PAGE_SHIFT);
    }
    return table;
}

unsigned long find_entry(unsigned long address, unsigned int level)
{
    unsigned long *table = find_table(address, level);

    return table ? virt_to_maddr(&table[ENTRY_INDEX(address, level)]) : 0;
}

unsigned long read_entry(unsigned long address, unsigned int level)
{
    unsigned long *table = find_table(address, level);

    return table ? table[ENTRY_INDEX(address, level)] : 0;
}

long write_entry(unsigned long machine_address, unsigned long value)
{
    mmu_update_t request = {.ptr = machine_address | MMU_NORMAL_PT_UPDATE, .val = value};

    return hypercall(mmu_update, &request, 1, NULL, DOMID_SELF);
}

long map(const volatile void *address, unsigned long entry)
{
    return hypercall(update_va_mapping, address, entry, UVMF_INVLPG | UVMF_LOCAL);
}

long mmuext(unsigned int command, unsigned long arg1, unsigned long arg2)
{
    mmuext_op_t operation = {.cmd = command};

    operation.arg1.mfn = arg1;
    operation.arg2.nr_ents = arg2;
    if (command == MMUEXT_TLB_FLUSH_MULTI || command == MMUEXT_INVLPG_MULTI ||
        command == MMUEXT_COPY_PAGE)
        operation.arg2.src_mfn = arg2;
    return hypercall(mmuext_op, &operation, 1, NULL, DOMID_SELF);
}

void make_read_only(void *page)
{
    if (map(page, virt_to_mfn(page) << PAGE_SHIFT | PTE_READ_ONLY))
        fail("make_read_only: refused");
}

void make_writable(void *page)
{
    if (map(page, virt_to_mfn(page) << PAGE_SHIFT | PTE_KERNEL))
        fail("make_writable: refused");
}

/* Traps */

long set_trap_table(void)
{
    static trap_info_t table[33];

    for (unsigned int vector = 0; vector < 32; vector++) {
        table[vector].vector = (uint8_t)vector;
        table[vector].flags = vector == TRAP_INT3 || vector == TRAP_OVERFLOW ? 3 : 0;
        table[vector].cs = FLAT_KERNEL_CS;
        table[vector].address = (unsigned long)trap_entries[vector];
    }
    return hypercall(set_trap_table, table);
}

/* On whose stack a frame lies. */
static unsigned int vcpu_of(const struct trap_frame *frame)
{
    for (unsigned int vcpu = 1; vcpu < MAX_VCPUS; vcpu++)
        if ((uint8_t *)frame >= stacks[vcpu] && (uint8_t *)frame < stacks[vcpu] + PAGE_SIZE)
            return vcpu;
    return 0;
}

static void take_events(unsigned int vcpu)
{
    vcpu_info_t *info = vcpu_info(vcpu);
    volatile unsigned long *selector = &info->evtchn_pending_sel;

    *(volatile uint8_t *)&info->evtchn_upcall_pending = 0;
    for (unsigned long words = __atomic_exchange_n(selector, 0, __ATOMIC_SEQ_CST); words;
         words &= words - 1) {
        unsigned int word = (unsigned int)__builtin_ctzl(words);
        volatile unsigned long *pending = &shared_info->evtchn_pending[word];
        unsigned long bits = *pending & ~*(volatile unsigned long *)&shared_info->evtchn_mask[word];

        for (; bits; bits &= bits - 1) {
            unsigned int bit = (unsigned int)__builtin_ctzl(bits);

            __atomic_and_fetch(pending, ~(1ul << bit), __ATOMIC_SEQ_CST);
            event_counts[word * 64 + bit]++;
            if (event_hook)
                event_hook(word * 64 + bit);
        }
    }
}

void runtime_trap(struct trap_frame *frame);
void runtime_trap(struct trap_frame *frame)
{
    unsigned int vcpu = vcpu_of(frame);
    unsigned long cr2 = vcpu_info(vcpu)->arch.cr2;

    trap_counts[frame->vector]++;
    if (trap_hook && trap_hook(frame))
        return;
    if (frame->vector == TRAP_EVENT) {
        take_events(vcpu);
        return;
    }
    last_trap = *frame;
    last_cr2 = cr2;
    if (try_armed)
        try_abort((int)frame->vector);
    printk("failed: trap %lu, error %lx, at %lx, cr2 %lx, rsp %lx, cs %lx\n", frame->vector,
           frame->error, frame->rip, cr2, frame->rsp, frame->cs);
    shutdown(SHUTDOWN_crash);
}

int try_read(const volatile void *address)
{
    return TRY(*(const volatile uint8_t *)address);
}

int try_write(volatile void *address, unsigned long value)
{
    return TRY(*(volatile unsigned long *)address = value);
}

void unmask_events(void)
{
    volatile vcpu_info_t *info = vcpu_info(0);

    info->evtchn_upcall_mask = 0;
    asm volatile("" : : : "memory");
    if (info->evtchn_upcall_pending)
        hypercall(xen_version, XENVER_version, 0);
}

unsigned long system_time(void)
{
    volatile vcpu_time_info_t *time = &vcpu_info(0)->time;
    unsigned long delta, result;
    uint32_t version, low, high;

    do {
        version = time->version;
        asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
        delta = ((unsigned long)high << 32 | low) - time->tsc_timestamp;
        delta = time->tsc_shift < 0 ? delta >> -time->tsc_shift : delta << time->tsc_shift;
        result = time->system_time +
                 (unsigned long)((unsigned __int128)delta * time->tsc_to_system_mul >> 32);
        asm volatile("" : : : "memory");
    } while (version & 1 || version != time->version);
    return result;
}

/* User mode */

static unsigned long *user_tables[4];

static void map_for_user(uint8_t *start, uint8_t *end, unsigned long flags)
{
    for (; start < end; start += PAGE_SIZE)
        user_tables[0][ENTRY_INDEX((unsigned long)start, 1)] =
            virt_to_mfn(start) << PAGE_SHIFT | flags | PTE_USER | PTE_ACCESSED | PTE_DIRTY;
}

/* The kernel's image is less than 2 MiB, so one table of each level will do. */
void prepare_user(void)
{
    hypercall(stack_switch, FLAT_KERNEL_SS, trap_stack + sizeof(trap_stack));
    if (user_l4_mfn)
        return;
    for (int level = 0; level < 4; level++)
        user_tables[level] = alloc_page();
    for (unsigned int level = 4; level > 1; level--)
        user_tables[level - 1][ENTRY_INDEX(VIRT_BASE, level)] =
            virt_to_mfn(user_tables[level - 2]) << PAGE_SHIFT | PTE_KERNEL | PTE_USER;
    map_for_user(_user_text, _user_text_end, PTE_PRESENT);
    map_for_user(_user_data, _user_data_end, PTE_PRESENT | PTE_RW | PTE_NX);
    for (int level = 0; level < 4; level++)
        make_read_only(user_tables[level]);
    if (mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(user_tables[3]), 0))
        fail("prepare_user: pin refused");
    user_l4_mfn = virt_to_mfn(user_tables[3]);
    if (mmuext(MMUEXT_NEW_USER_BASEPTR, user_l4_mfn, 0))
        fail("prepare_user: base refused");
}

int run_user(void (*code)(void), unsigned long rdi)
{
    struct trap_frame frame = {
        .rdi = rdi,
        .rip = (unsigned long)code,
        .cs = FLAT_USER_CS,
        .rflags = CPU_FLAGS,
        .rsp = (unsigned long)user_stack + sizeof(user_stack) - 16,
        .ss = FLAT_USER_SS,
    };

    prepare_user();
    *(unsigned long *)frame.rsp = 0;
    return TRY(resume(&frame));
}

/* Other vCPUs */

void prepare_vcpu(vcpu_guest_context_t *context, void (*code)(void), void *stack_end)
{
    memset(context, 0, sizeof(*context));
    context->flags = VGCF_in_kernel;
    context->user_regs.rip = (unsigned long)vcpu_entry;
    context->user_regs.rdi = (unsigned long)code;
    context->user_regs.rsp = (unsigned long)stack_end;
    context->user_regs.rflags = CPU_FLAGS;
    context->user_regs.cs = FLAT_KERNEL_CS;
    context->user_regs.ss = FLAT_KERNEL_SS;
    for (unsigned int vector = 0; vector < 32; vector++) {
        context->trap_ctxt[vector].vector = (uint8_t)vector;
        context->trap_ctxt[vector].cs = FLAT_KERNEL_CS;
        context->trap_ctxt[vector].address = (unsigned long)trap_entries[vector];
    }
    context->event_callback_eip = (unsigned long)event_entry;
    context->failsafe_callback_eip = (unsigned long)failsafe_entry;
    context->syscall_callback_eip = (unsigned long)syscall_entry;
    context->kernel_ss = FLAT_KERNEL_SS;
    context->kernel_sp = (unsigned long)stack_end;
    context->ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn((void *)start_info->pt_base));
}

long start_vcpu(unsigned int vcpu, void (*code)(void))
{
    static vcpu_guest_context_t context;
    uint8_t *stack = alloc_page();
    long error;

    prepare_vcpu(&context, code, stack + PAGE_SIZE);
    stacks[vcpu] = stack;
    error = hypercall(vcpu_op, VCPUOP_initialise, vcpu, &context);
    return error ? error : hypercall(vcpu_op, VCPUOP_up, vcpu, NULL);
}

void vcpu_down(void)
{
    /* Its number is not known here, and a vCPU that blocks with masked events is as good as down. */
    for (;;) {
        sched_poll_t poll = {.nr_ports = 0, .timeout = 0};

        hypercall(sched_op, SCHEDOP_poll, &poll);
    }
}

unsigned long random_number(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* Start */

void runtime_start(start_info_t *info) __attribute__((noreturn));
void runtime_start(start_info_t *info)
{
    unsigned long tables_end = info->pt_base + info->nr_pt_frames * PAGE_SIZE;

    start_info = info;
    next_page = tables_end + PAGE_SIZE; /* behind the stack of the start */
    end_of_pages = (next_page + (512ul << 10) + (4ul << 20) - 1) & ~((4ul << 20) - 1);
    next_unmapped = (end_of_pages - VIRT_BASE) >> PAGE_SHIFT;
    shared_info = (shared_info_t *)shared_info_page;
    if (hypercall(update_va_mapping, shared_info, info->shared_info | PTE_KERNEL, UVMF_INVLPG))
        fail("the shared info page cannot be mapped");
    if (set_trap_table())
        fail("set_trap_table");
    if (hypercall(set_callbacks, event_entry, failsafe_entry, syscall_entry))
        fail("set_callbacks");
    kernel_main();
    finish();
}
