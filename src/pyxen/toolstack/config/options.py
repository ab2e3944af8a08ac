# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of xl.cfg: which pyxen heeds, and which it knows and leaves out.

Reference: ``xl.cfg(5)`` of Xen 4.17, with those that later versions have added.
"""

from __future__ import annotations

from typing import Final


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


USED: Final = _names(
    """
    builder cap channel cmdline cpu_weight cpuid cpus cpus_soft disk extra kernel max_event_channels
    max_grant_frames max_grant_version max_maptrack_frames maxmem maxvcpus memory name on_crash
    on_poweroff on_reboot on_watchdog ramdisk root type uuid vcpus vif
    """
)

OWN: Final = _names("console_log engine image system_map")
"""pyxen's own. xl takes no notice of names that it does not know."""

NOT_YET: Final = _names(
    """
    argo blkdev_start bootloader bootloader_args bootloader_restrict bootloader_user
    claim_mode driver_domain dtdev e820_host extratime firmware
    ignore_global_affinity_masks init_seclabel iomem ioports irqs latency localtime nomigrate
    on_soft_reset p9 passthrough pci pci_msitranslate pci_permissive pci_power_mgmt pci_seize
    period pool pvcalls rdm rdm_mem_boundary rtc_timeoffset seclabel slice tsc_mode usbctrl
    usbdev vdispl vfb vif2 virtio vkb vmtrace_buf_kb vnuma vpmu vsnd vtpm vuart
    xenstore_feature_mask xenstore_quota
    """
)
"""They would do something for a PV domain on Xen, and do nothing here."""

FOREIGN: Final = _names(
    """
    acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2m_count altp2mhvm apic
    arm_sci bios bios_path_override boot device_model device_model_args device_model_args_hvm
    device_model_args_pv device_model_override device_model_stubdomain_override
    device_model_stubdomain_seclabel device_model_user device_model_version device_tree display
    dm_restrict firmware_override gfx_passthru gic_version hap hdtype hpet hvm_pirq keymap
    llc_colors mca_caps mmio_hole ms_vm_genid msr_relaxed nested_hvm nestedhvm nographic nr_spis
    nx oos opengl pae pvshim pvshim_cmdline pvshim_extra pvshim_path sdl serial shadow_memory
    smbios smbios_firmware soundhw spice spice_clipboard_sharing spice_image_compression
    spice_streaming_video spiceagent_mouse spicedisable_ticketing spicehost spicepasswd
    spiceport spicetls_port spiceusbredirection spicevdagent stdvga stubdomain_cmdline
    stubdomain_kernel stubdomain_memory stubdomain_ramdisk suppress_spurious_page_faults sve tee
    timer_mode trap_unmapped_accesses usb usbdevice usbversion vendor_device vga videoram
    viridian vkb_device vnc vncdisplay vnclisten vncpasswd vncunused vncviewer vpt_align
    xauthority xen_platform_pci xen_platform_pci_bar_uc xend_suspend_evtchn_compat
    """
)
"""They are about other kinds of guests or machines, or a screen."""

KNOWN: Final = USED | OWN | NOT_YET | FOREIGN
