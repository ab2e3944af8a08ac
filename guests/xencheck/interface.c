/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rows 1 and 2: what Xen says of itself, and the start of the kernel on it. */
#include "xencheck.h"

#include <cpuid.h>
#include <stdio.h>
#include <string.h>

static void check_files(void)
{
	static const char *const files[] = {
		"type", "guest_type", "uuid",
		"version/major", "version/minor", "version/extra",
		"compilation/compiler", "compilation/compiled_by", "compilation/compile_date",
		"properties/capabilities", "properties/changeset", "properties/virtual_start",
		"properties/pagesize", "properties/features",
	};
	char path[128];

	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		snprintf(path, sizeof path, "/sys/hypervisor/%s", files[i]);
		const char *line = read_line(path);
		check(1, *line, "%s says something: %s", files[i], line);
	}
	check(1, !strcmp(read_line("/sys/hypervisor/type"), "xen"), "the hypervisor is xen");
	check(1, !strcmp(read_line("/sys/hypervisor/guest_type"), "PV"), "the guest is PV");
	check(1, strstr(read_line("/sys/hypervisor/properties/capabilities"), "xen-3.0-x86_64"),
	      "64-bit PV is among the capabilities");
	check(1, !strcmp(read_line("/sys/hypervisor/properties/pagesize"), "1000"),
	      "the page size is 4096");
	check(1, !strcmp(read_line("/sys/hypervisor/properties/virtual_start"), "ffff800000000000"),
	      "Xen's range starts where the header says");
}

static void get_cpuid(unsigned leaf, unsigned *r, bool forced)
{
	r[0] = leaf;
	r[2] = 0;
	if (forced) /* ud2, "xen", and the instruction: the emulated one on any hardware */
		asm volatile(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e; cpuid"
			     : "+a"(r[0]), "=b"(r[1]), "+c"(r[2]), "=d"(r[3]));
	else
		asm volatile("cpuid" : "+a"(r[0]), "=b"(r[1]), "+c"(r[2]), "=d"(r[3]));
}

static void check_cpuid(bool forced)
{
	const char *how = forced ? "forced" : "plain";
	unsigned r[4];
	char signature[13] = "";

	get_cpuid(0x40000000, r, forced);
	memcpy(signature, &r[1], 12);
	check(2, !strcmp(signature, "XenVMMXenVMM"), "%s CPUID has Xen's signature", how);
	check(2, r[0] >= 0x40000003 && r[0] <= 0x40000005, "%s CPUID has Xen's leaves", how);
	get_cpuid(0x40000001, r, forced);
	check(2, r[0] >> 16 == 4 && (r[0] & 0xffff) == 17, "%s CPUID says version %u.%u", how,
	      r[0] >> 16, r[0] & 0xffff);
	get_cpuid(1, r, forced);
	check(2, r[2] >> 31, "%s CPUID has the hypervisor bit", how);
}

void check_interface(void)
{
	char *cpuinfo = read_file("/proc/cpuinfo");
	unsigned r[4];

	check_files();
	check_cpuid(false);
	check_cpuid(true);
	get_cpuid(0x40000003, r, false);
	value("tsc-khz", r[2]);
	check(2, log_has("Hypervisor detected: Xen PV"), "the kernel has detected Xen PV");
	check(2, log_has("Booting kernel on Xen") || log_has("Booting paravirtualized kernel on Xen"),
	      "the kernel boots on Xen");
	check(2, log_has("Xen version: 4."), "the kernel has logged Xen's version");
	check(2, cpuinfo && strstr(cpuinfo, " hypervisor"), "the CPU has the flag hypervisor");
	check(2, !log_has("unchecked MSR"), "no access to an MSR has failed");
}
