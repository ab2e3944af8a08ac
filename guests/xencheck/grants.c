/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Row 17: the grant table is there. */
#include "xencheck.h"

void check_grants(void)
{
	check(17, log_has("Grant tables using version 1 layout"), "it is set up in version 1");
	check(17, log_has("Grant table initialized"), "it is initialised");
	check_proxy(17, !log_has("still in use") && !log_has("leaking"), "no front end uses it here",
		    "no entry is lost");
}
