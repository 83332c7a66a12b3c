"""The lab with virtual machines: Debian's own kernel, systemd, and segctl installed from its packages."""
