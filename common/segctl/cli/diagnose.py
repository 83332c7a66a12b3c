"""Why the controller cannot be reached, in words. gRPC says only UNAVAILABLE for every cause below TLS and in it."""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from segctl.cli.config import ClientConfig

SECONDS = 3.0
RENEW = (
    "Ask an administrator for a new one: segctl-controller admin renew NAME --out DIR. For somebody new: "
    "segctl-controller admin add NAME --role ROLE --out DIR"
)


def diagnose(config: ClientConfig) -> tuple[str, str] | None:
    """Shake hands once with the standard library's TLS. Returns (cause, mend), or None when that works."""
    host, port = config.address
    try:
        context = _context(config, ssl.PROTOCOL_TLS_CLIENT)
        refusal = _own_refusal(config) if config.certificate else None
    except (ssl.SSLError, OSError, ValueError) as error:
        return f"the certificate in {config.directory} cannot be used: {_words(error)}", RENEW
    if refusal:
        return refusal
    try:
        with socket.create_connection((host, port), SECONDS) as plain:
            plain.settimeout(SECONDS)
            with context.wrap_socket(plain, server_hostname=host) as secured:
                # TLS 1.3 refuses a client's certificate only after the handshake. gRPC then closes without a word,
                # and otherwise speaks first (RFC 9113 3.4, SETTINGS).
                if config.certificate and not secured.recv(1):
                    return "the controller does not accept your certificate", RENEW
    except ssl.SSLCertVerificationError as error:
        return _server_refused(config, error)
    except ssl.SSLError as error:
        return _client_refused(config, error)
    except ConnectionResetError:
        return "the controller closed the connection during the TLS handshake", f"Check {config.directory}. {RENEW}"
    except socket.gaierror as error:
        return f"the name {host} cannot be resolved: {error.strerror}", "Check client.json and the name servers."
    except TimeoutError:
        return f"no answer within {SECONDS:.0f} s", "Check that the controller runs and that no firewall is between."
    except ConnectionRefusedError:
        return "connection refused: nothing listens there", "Start it: systemctl start segctl-controller"
    except OSError as error:
        return _words(error), "Check the network between here and the controller."
    return None


def _server_refused(config: ClientConfig, error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    why = error.verify_message
    if "expired" in why:
        return "the controller's certificate has expired (or a clock is wrong)", "Compare `date` here and there."
    if "not yet valid" in why:
        return "the controller's certificate is not valid yet: a clock is wrong", "Compare `date` here and there."
    if "ostname" in why or "IP address" in why:
        mend = f"Use a name of the controller in {config.directory / 'client.json'} (segctl-controller init --name)."
        return f"the controller's certificate is not for this name: {why}", mend
    return (
        f"the controller is not of the fleet {config.fleet!r}: its certificate is not signed by ca.pem ({why})",
        f"Check the address in {config.directory / 'client.json'}, or use the configuration of that fleet (--config).",
    )


def _own_refusal(config: ClientConfig) -> tuple[str, str] | None:
    """What a controller with our ca.pem says of our certificate: a handshake in memory, for only `ssl` can judge it."""
    server = _context(config, ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    client = _context(config, ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up)
    theirs = server.wrap_bio(up, down, server_side=True)
    with suppress(ssl.SSLWantReadError):
        ours.do_handshake()
    with suppress(ssl.SSLWantReadError):
        theirs.do_handshake()
    with suppress(ssl.SSLWantReadError):
        ours.do_handshake()
    try:
        theirs.do_handshake()
    except ssl.SSLCertVerificationError as error:
        if "expired" in error.verify_message:
            return "your certificate has expired (or a clock is wrong)", RENEW
        if "not yet valid" in error.verify_message:
            return "your certificate is not valid yet: a clock is wrong", "Compare `date` here and on the controller."
        return f"cert.pem and ca.pem in {config.directory} do not belong together: this CA did not sign it", RENEW
    return None


def _client_refused(config: ClientConfig, error: ssl.SSLError) -> tuple[str, str]:
    reason = (error.reason or "").upper()
    if "WRONG_VERSION_NUMBER" in reason or "HTTP_REQUEST" in reason:
        return "what listens there does not speak TLS", f"Check the port in {config.directory / 'client.json'}."
    if "ALERT" in reason:
        return f"the controller refused your certificate ({_words(error)})", RENEW
    return f"TLS failed: {_words(error)}", f"Check the files in {config.directory}."


def _context(config: ClientConfig, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=config.ca.decode("ascii"))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the fleet's CA need not be a root
    if not config.certificate:
        return context
    with _in_memory(config.certificate) as certificate, _in_memory(config.key) as key:
        context.load_cert_chain(certificate, key)
    return context


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """`ssl` reads certificates only from files; the key must not reach a disk a second time."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("segctl")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
