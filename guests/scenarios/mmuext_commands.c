/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* mmuext_op: all command numbers, with arguments that fit none; other domains; the count done. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned int done = 99;
    mmuext_op_t batch[3] = {
        {.cmd = MMUEXT_TLB_FLUSH_LOCAL}, {.cmd = MMUEXT_TLB_FLUSH_LOCAL}, {.cmd = 999},
    };

    for (unsigned int command = 20; command < 64; command++)
        REFUSED(mmuext(command, 0x1234, 0x5678));
    REFUSED(mmuext(~0u, 0, 0));
    for (unsigned int command = 0; command < 20; command++) {
        mmuext_op_t operation = {.cmd = command};
        long result;

        if (command == MMUEXT_NEW_USER_BASEPTR)
            continue;
        operation.arg1.mfn = 0xffff8f1234567891ul;
        operation.arg2.src_mfn = 0xfffffffffffff7fful;
        result = hypercall(mmuext_op, &operation, 1, NULL, DOMID_SELF);
        CHECK(result <= 0);
    }
    REFUSED(hypercall(mmuext_op, batch, 3, &done, DOMID_SELF));
    EXPECT(2, done);
    batch[0].cmd = MMUEXT_PIN_L1_TABLE;
    batch[0].arg1.mfn = virt_to_mfn(alloc_table());
    for (unsigned int domid = 2; domid < 0x7ff0; domid = domid * 3 + 1)
        REFUSED(hypercall(mmuext_op, batch, 1, NULL, domid));
    REFUSED(hypercall(mmuext_op, batch, 1, NULL, DOMID_XEN));
    REFUSED(hypercall(mmuext_op, batch, 1, NULL, DOMID_IO));
    REFUSED(hypercall(mmuext_op, batch, 1, NULL, 0));
}
