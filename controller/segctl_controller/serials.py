"""Which certificates of a host are good: pure.

The one in use is. One that was given (Agent.Renew) is too, and its first use ends the other: whoever lost the answer,
or died before storing it, goes on with what it has. After a restore the backup may not know what the host uses by now:
then the first certificate it shows that was issued after the backup is adopted, and told.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from cryptography import x509

from segctl_controller.authority import serial_text
from segctl_controller.store.records import Entry, HostRecord

SECOND_US = 1_000_000


def in_use(record: HostRecord, serial: str, issued_us: int) -> HostRecord | None:
    """The record once the certificate `serial` was shown; None when it is not good. `issued_us`: a whole second's."""
    if serial == record.serial:
        return replace(record, restored_us=0)
    if record.renewal and serial == serial_text(x509.load_der_x509_certificate(record.renewal)):
        return replace(record, serial=serial, renewal=b"", restored_us=0)
    if record.restored_us and issued_us > record.restored_us - SECOND_US:
        return replace(record, serial=serial, renewal=b"", restored_us=0)
    return None


def adoption(record: HostRecord, serial: str, issued_us: int, now_us: int) -> Entry | None:
    """What the audit log says when `in_use` let a certificate in that nobody here remembers giving."""
    known = (record.serial, serial_text(x509.load_der_x509_certificate(record.renewal)) if record.renewal else "")
    if serial in known:
        return None
    issued, taken = (datetime.fromtimestamp(us / 1e6, UTC) for us in (issued_us, record.restored_us))
    detail = (
        f"a certificate of {issued:%Y-%m-%d %H:%M} UTC, which the restored backup of {taken:%Y-%m-%d %H:%M} UTC "
        "does not know"
    )
    return Entry(now_us, f"host {record.name}", "certificate-adopted", f"host {record.name}", detail)
