"""The two things about a disk for which there is no tool without a loop device.

disk.py vmlinux VMLINUZ OUT        the kernel without its compression: a machine without KVM would spend seconds on it
disk.py boot BOOT.IMG CORE.IMG DISK    what grub-bios-setup(8) does for a disk with one partition from 1 MiB to the end
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

SECTOR = 512
FIRST_SECTOR = 2048
LZ4_LEGACY = b"\x02!L\x18"
XZ, ZSTD, GZIP = b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08"
PACKERS = {LZ4_LEGACY: ["lz4", "-dc"], XZ: ["xz", "-dcq"], ZSTD: ["zstd", "-dcq"], GZIP: ["gzip", "-dcq"]}


def unpack_kernel(vmlinuz: bytes) -> bytes:
    """The ELF image inside a bzImage, as scripts/extract-vmlinux of Linux finds it: try each packer where its magic is.
    Raises SystemExit when there is none."""
    for magic, command in PACKERS.items():
        start = vmlinuz.find(magic)
        while start >= 0:
            image = subprocess.run(command, input=vmlinuz[start:], capture_output=True, check=False).stdout
            if image.startswith(b"\x7fELF"):
                return image
            start = vmlinuz.find(magic, start + 1)
    raise SystemExit("disk.py: no packed kernel found in this image")


def write_boot(boot_image: bytes, core_image: bytes, disk: Path) -> None:
    """The boot sector, with a partition table, and GRUB's core in the gap before the partition. Offsets: the comments
    in grub-core/boot/i386/pc/{boot,diskboot}.S."""
    boot, core = bytearray(boot_image[:440]), bytearray(core_image)
    sectors = -(-len(core) // SECTOR)
    if sectors >= FIRST_SECTOR:
        raise SystemExit("disk.py: GRUB's core does not fit before the partition")
    struct.pack_into("<Q", boot, 0x5C, 1)  # the core begins at sector 1
    boot[0x64] = 0xFF  # on the drive that the BIOS booted from
    struct.pack_into("<QHH", core, SECTOR - 12, 2, sectors - 1, 0x820)  # the rest of it in one run, to segment 0x820
    with disk.open("r+b") as file:
        size = file.seek(0, 2) // SECTOR - FIRST_SECTOR
        entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", FIRST_SECTOR, size)
        file.seek(0)
        file.write(boot + b"SGCT\0\0" + entry + bytes(48) + b"\x55\xaa")
        file.write(core)


def main() -> None:
    match sys.argv[1:]:
        case ["vmlinux", vmlinuz, out]:
            Path(out).write_bytes(unpack_kernel(Path(vmlinuz).read_bytes()))
        case ["boot", boot, core, disk]:
            write_boot(Path(boot).read_bytes(), Path(core).read_bytes(), Path(disk))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
