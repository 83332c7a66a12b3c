"""From a packet the kernel refused to a denial a person can act on."""
