"""The kernel's table of connections through ctnetlink: read as a stream, decoded without a library, one entry ended."""
