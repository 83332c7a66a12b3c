"""ca.pem of the client configuration follows the fleet's CAs: two while the CA is rotated, the new one after."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from contextlib import suppress

from segctl.cli.config import ClientConfig

MOST_CAS, LARGEST_CA = 4, 8192
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def keep_trust(config: ClientConfig, cas: Sequence[bytes]) -> None:
    """Writes `cas` (DER), which a controller that `config` trusts named, if they are others. A configuration that
    cannot be written stays as it is: it is good for as long as the CA that it names."""
    if not 0 < len(cas) <= MOST_CAS or any(len(ca) > LARGEST_CA for ca in cas) or set(cas) == _known(config.ca):
        return
    path = config.directory / "ca.pem"
    aside = path.with_name(f".ca.pem.{os.getpid()}")
    with suppress(OSError):
        try:
            aside.write_text("".join(ssl.DER_cert_to_PEM_cert(ca) for ca in cas), encoding="ascii")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def _known(pem: bytes) -> set[bytes]:
    return {ssl.PEM_cert_to_DER_cert(block) for block in _BLOCK.findall(pem.decode("ascii", "replace"))}
