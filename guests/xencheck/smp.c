/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rows 12 and 23: all vCPUs work, go and come back; those beyond 32 have their vcpu_info elsewhere. */
#define _GNU_SOURCE
#include "xencheck.h"
#include "interrupts.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LEGACY_VCPUS = 32, CYCLES = 3 };

static int work_on(void *argument)
{
	int cpu = (intptr_t)argument;

	pin_to_cpu(cpu);
	if (sched_getcpu() != cpu || run_nothing())
		return 1;
	sleep_ns(10000000); /* its own timer must wake it */
	return sched_getcpu() != cpu;
}

static bool works(int cpu)
{
	return ended_well(wait_for(start(work_on, (void *)(intptr_t)cpu)));
}

static bool set_online(int cpu, bool online)
{
	char path[64];

	snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/online", cpu);
	return write_file(path, online ? "1" : "0") &&
	       !strcmp(read_line(path), online ? "1" : "0");
}

/* Change mappings that other CPUs use, so that they must be told to flush. */
static int share_and_unmap(void *argument)
{
	pid_t child;
	int status;

	/* Of one address space, on another CPU. */
	child = vfork();
	if (child == 0) {
		pin_to_cpu((intptr_t)argument);
		_exit(0);
	}
	status = wait_for(child);
	for (int i = 0; i < 20; i++) {
		char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		*page = 1;
		munmap(page, 4096);
	}
	return !ended_well(status);
}

void check_smp(void)
{
	int cpus = cpus_online();
	char text[64], *table;
	int well = 0, beyond = 0;

	snprintf(text, sizeof text, "smp: Brought up 1 node, %d CPU", cpus);
	check(12, log_has(text), "the kernel has brought up %d", cpus);
	check(12, sysconf(_SC_NPROCESSORS_CONF) == cpus, "these are all");
	value("cpus", cpus);
	for (int cpu = 0; cpu < cpus; cpu++) {
		bool good = works(cpu);

		well += good;
		beyond += good && cpu >= LEGACY_VCPUS;
	}
	check(12, well == cpus, "%d of %d CPUs run a process, start another and wake up in time", well,
	      cpus);
	if (cpus > LEGACY_VCPUS)
		check(23, beyond == cpus - LEGACY_VCPUS, "%d beyond the %d of shared info work", beyond,
		      LEGACY_VCPUS);
	if (cpus == 1) {
		check_proxy(23, true, "one vCPU has a slot in shared info too",
			    "the vcpu_info that was registered is in use");
		return;
	}
	check(12, ended_well(wait_for(start(share_and_unmap, (void *)(intptr_t)(cpus - 1)))),
	      "mappings change while others use them");
	for (int cycle = 0; cycle < CYCLES; cycle++) {
		int cpu = cpus - 1 - cycle % (cpus - 1);

		check(12, set_online(cpu, false) && cpus_online() == cpus - 1, "CPU %d goes", cpu);
		check(12, set_online(cpu, true) && cpus_online() == cpus && works(cpu),
		      "CPU %d comes back and works", cpu);
	}
	check(23, works(1), "a vcpu_info registered once serves a CPU that came back");
	table = read_file("/proc/interrupts");
	check(12, interrupts_of(table, "RES") > 0, "CPUs ask each other to schedule");
	check(12, interrupts_of(table, "CAL") > 0, "CPUs call each other's functions");
	free(table);
}
