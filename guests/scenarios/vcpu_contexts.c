/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// vcpus: 2
/* VCPUOP_initialise with contexts that ask for too much: page tables that are none, descriptor pages
 * of Xen's, addresses that are not canonical, privileged segments. A refused one leaves the vCPU as it
 * was, so that a good one is taken afterwards. */

#include "scenario.h"

static vcpu_guest_context_t context;
static volatile int reached;

static void second(void)
{
    reached = 1;
}

static long initialise(void)
{
    return hypercall(vcpu_op, VCPUOP_initialise, 1, &context);
}

void kernel_main(void)
{
    uint8_t *stack = alloc_page();
    static const unsigned long bad_frames[] = {0, 1, 2, 0xffff, 0x1000000, 0xffffffffff};

    for (unsigned int i = 0; i < COUNT(bad_frames); i++) {
        prepare_vcpu(&context, second, stack + PAGE_SIZE);
        context.ctrlreg[3] = xen_pfn_to_cr3(bad_frames[i]);
        REFUSED(initialise());
        prepare_vcpu(&context, second, stack + PAGE_SIZE);
        context.gdt_ents = 512;
        context.gdt_frames[0] = bad_frames[i];
        REFUSED(initialise());
        if (bad_frames[i]) {
            prepare_vcpu(&context, second, stack + PAGE_SIZE);
            context.ctrlreg[1] = xen_pfn_to_cr3(bad_frames[i]) | 1;
            CHECK(initialise() <= 0);
            if (hypercall(vcpu_op, VCPUOP_is_up, 1, NULL) == -XEN_ENOENT)
                fail("no vcpu 1");
        }
    }
    prepare_vcpu(&context, second, stack + PAGE_SIZE);
    context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn(find_table(VIRT_BASE, 3)));
    REFUSED(initialise());
    prepare_vcpu(&context, second, stack + PAGE_SIZE);
    context.gdt_ents = 15 * 512;
    REFUSED(initialise());
    prepare_vcpu(&context, second, stack + PAGE_SIZE);
    context.ldt_ents = 8193;
    REFUSED(initialise());
    prepare_vcpu(&context, second, stack + PAGE_SIZE);
    context.ldt_ents = 1;
    context.ldt_base = XEN_PRIVATE;
    REFUSED(initialise());
    prepare_vcpu(&context, second, stack + PAGE_SIZE);
    context.event_callback_eip = NON_CANONICAL;
    REFUSED(initialise());
    prepare_vcpu(&context, second, stack + PAGE_SIZE);
    context.user_regs.rip = NON_CANONICAL;
    REFUSED(initialise());
    prepare_vcpu(&context, second, stack + PAGE_SIZE);
    context.fs_base = NON_CANONICAL;
    REFUSED(initialise());
    REFUSED(hypercall(vcpu_op, VCPUOP_up, 1, NULL));

    prepare_vcpu(&context, second, stack + PAGE_SIZE);
    context.user_regs.cs = 0xe008; /* made harmless, as all selectors are */
    context.user_regs.ss = 0xe010;
    context.user_regs.rflags = ~0ul & ~(1ul << 8 | 1ul << 14 | 1ul << 10);
    for (unsigned int i = 0; i < 256; i++)
        context.trap_ctxt[i].cs = 0xe008;
    context.user_regs.cs = FLAT_KERNEL_CS & ~3;
    context.user_regs.ss = FLAT_KERNEL_SS & ~3;
    EXPECT(0, initialise());
    EXPECT(-XEN_EEXIST, initialise());
    EXPECT(0, hypercall(vcpu_op, VCPUOP_up, 1, NULL));
    for (unsigned int i = 0; i < 1000 && !reached; i++)
        hypercall(sched_op, SCHEDOP_yield, NULL);
    EXPECT(1, reached);
}
