/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Row 27: there is no hardware, and who looks for it finds none. */
#include "xencheck.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>

static int count_entries(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;
	int count = 0;

	while (folder && (entry = readdir(folder)))
		count += *entry->d_name != '.';
	if (folder)
		closedir(folder);
	return count;
}

static const unsigned short ports[] = { 0x20, 0x60, 0x64, 0x70, 0x1f7, 0x3f8, 0xcf8 };
enum { PORTS = sizeof ports / sizeof *ports };

/* Ends with 0 if all that can be read is ones. */
static int read_ports(void *unused)
{
	(void)unused;
	if (iopl(3))
		return 2;
	for (int i = 0; i < PORTS; i++)
		if (inb(ports[i]) != 0xff || inw(ports[i]) != 0xffff || inl(ports[i]) != ~0u)
			return 1;
	outb(0, 0x80);
	return 0;
}

void check_drivers(void)
{
	char *taken = read_file("/proc/ioports");
	int status;

	ask_host("snapshot before-ports");
	status = wait_for(start(read_ports, NULL));
	ask_host("snapshot after-ports");
	value("port-accesses", 3 * PORTS + 1);
	check(27, count_entries("/sys/bus/pci/devices") == 0, "there is no PCI device");
	check(27, taken && !strstr(taken, "PCI") && !strstr(taken, "serial"),
	      "no driver has taken ports of a PCI bus or a serial line");
	check(27, !log_has("PIIX"), "no IDE controller was found");
	check(27, !log_has("serial8250: ttyS"), "no serial line was found");
	check(27, !log_has("i8042 KBD") && !log_has("i8042 AUX"), "no keyboard controller was found");
	check(27, ended_well(status), "a program that may use ports reads ones");
	free(taken);
}
