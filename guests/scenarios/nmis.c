/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// vcpus: 2
/* Non-maskable interrupts: a handler that is not canonical, NMIs to vCPUs that do not exist, have no
 * handler or are down, and one sent from within the handler. */

#include "scenario.h"

static volatile unsigned int taken;

static bool on_trap(struct trap_frame *frame)
{
    if (frame->vector != TRAP_NMI && frame->vector != TRAP_NMI_CALLBACK)
        return false;
    if (++taken < 5)
        hypercall(vcpu_op, VCPUOP_send_nmi, 0, NULL);
    return true;
}

void kernel_main(void)
{
    xennmi_callback_t callback = {.handler_address = NON_CANONICAL};
    static trap_info_t none[] = {
        {.vector = TRAP_NMI, .cs = FLAT_KERNEL_CS, .address = 0xffff},
        {0},
    };

    (void)none;
    for (unsigned int vcpu = 2; vcpu < 9000; vcpu = vcpu * 3)
        REFUSED(hypercall(vcpu_op, VCPUOP_send_nmi, vcpu, NULL));
    REFUSED(hypercall(nmi_op, XENNMI_register_callback, &callback));
    EXPECT_BAD_POINTERS(-XEN_EFAULT, hypercall(nmi_op, XENNMI_register_callback, bad));
    for (unsigned int command = 2; command < 20; command++)
        REFUSED(hypercall(nmi_op, command, &callback));
    CHECK(hypercall(vcpu_op, VCPUOP_send_nmi, 1, NULL) <= 0); /* it has no state yet */
    trap_hook = on_trap;
    callback.handler_address = (unsigned long)nmi_entry;
    EXPECT(0, hypercall(nmi_op, XENNMI_register_callback, &callback));
    EXPECT(0, hypercall(vcpu_op, VCPUOP_send_nmi, 0, NULL));
    for (unsigned int i = 0; i < 100 && taken < 5; i++)
        hypercall(xen_version, XENVER_version, NULL);
    EXPECT(5, taken);
    EXPECT(0, hypercall(nmi_op, XENNMI_unregister_callback, NULL));
}
