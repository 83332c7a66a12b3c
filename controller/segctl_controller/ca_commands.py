"""segctl-controller ca: status, rotate, activate, retire and cancel. They work while the controller runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from segctl.errors import StateError

from segctl_controller import rotation
from segctl_controller.authority import Authority
from segctl_controller.clock import Clock
from segctl_controller.config import load_config
from segctl_controller.errors import PreconditionError
from segctl_controller.holders import Holders, count_holders
from segctl_controller.options import STATE
from segctl_controller.rotation import CaSet, Stage, load_cas, rotating
from segctl_controller.setup import SHELL, new_authority, open_store
from segctl_controller.store.protocol import Store
from segctl_controller.store.records import Entry

MOST_NAMES = 10
CA_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
NEXT_STEP = {
    Stage.STEADY: "segctl-controller ca rotate makes the next CA",
    Stage.PREPARED: "segctl-controller ca activate has it sign, once every controller of the fleet has these files",
    Stage.ACTIVE: "connected hosts renew now; when nobody holds an old certificate: segctl-controller ca retire",
}


def external_files(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Raises click.UsageError when one is without the other."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise click.UsageError("--ca-certificate and --ca-key go together")
    return certificate, key


@click.group()
def ca() -> None:
    """The fleet's CA, and its rotation: rotate, activate, retire. Hosts and operators are trusted throughout."""


@ca.command()
@STATE
def status(state: Path) -> None:
    """Print the CAs, who holds certificates of them, and what is next."""
    cas = load_cas(state, load_config(state).fleet)
    with _opened(state) as store:
        held = count_holders(store, cas)
    click.echo(f"rotation: {cas.stage}")
    for authority in cas.trusted:
        signs = "signs" if authority is cas.signing else "trusted"
        click.echo(f"{authority.name}\tends {authority.ends:%Y-%m-%d}\t{signs}\t{_counts(held[authority])}")
    if held[None] != Holders():
        click.echo(f"a CA that was retired\t{_counts(held[None])}: {_named(held[None])}; {_MEND}")
    if cas.stage is Stage.ACTIVE and held[cas.current] != Holders():
        click.echo(f"still of {cas.current.name}: {_named(held[cas.current])}")
    click.echo(f"next: {NEXT_STEP[cas.stage]}", err=True)


@ca.command()
@STATE
@click.option("--ca-certificate", type=CA_FILE, help="An intermediate of your own CA, PEM; those above may follow it.")
@click.option("--ca-key", type=CA_FILE, help="Its key, PEM.")
def rotate(state: Path, ca_certificate: Path | None, ca_key: Path | None) -> None:
    """Make the next CA, or take it from files. It is trusted from now on and signs nothing yet."""
    external = external_files(ca_certificate, ca_key)
    config = load_config(state)
    with _step(state, "ca-rotate") as told:
        fresh = new_authority(config.fleet, config.names, external, Clock())
        current = told.cas.current.certificate
        if fresh.certificate.public_key() == current.public_key():
            raise PreconditionError("this is the key of the CA that is in use: rotate to another one")
        if fresh.certificate.subject == current.subject:
            # Who verifies looks for an issuer by its name, and may find the wrong one of two.
            raise PreconditionError(f"the CA that is in use is called {fresh.name}, too: have another name certified")
        rotation.prepare(state, fresh)
        told.detail = f"next CA {fresh.name}, until {fresh.ends:%Y-%m-%d}"
    click.echo(f"prepared: {told.detail}", err=True)
    click.echo(f"next: {NEXT_STEP[Stage.PREPARED]}", err=True)


@ca.command()
@STATE
def activate(state: Path) -> None:
    """Have the next CA sign the certificates of hosts and operators. Those of the one before stay good."""
    with _step(state, "ca-activate") as told:
        rotation.activate(state)
        told.detail = _next_of(told.cas).name
    click.echo(f"active: {told.detail}", err=True)
    click.echo(f"next: {NEXT_STEP[Stage.ACTIVE]}", err=True)


@ca.command()
@STATE
def cancel(state: Path) -> None:
    """Give the next CA up again, before it was activated."""
    with _step(state, "ca-cancel") as told:
        rotation.cancel(state)
        told.detail = _next_of(told.cas).name
    click.echo(f"cancelled: {told.detail} is gone", err=True)


@ca.command()
@STATE
@click.option("--force", is_flag=True, help="Lock out the hosts and operators that still hold certificates of it.")
def retire(state: Path, force: bool) -> None:
    """End the CA before: its key is removed, and its certificates are refused."""
    with _step(state, "ca-retire") as told:
        left = count_holders(told.store, told.cas)[told.cas.current] if told.cas.stage is Stage.ACTIVE else Holders()
        if left != Holders() and not force:
            raise PreconditionError(
                f"{_counts(left)} still hold certificates of {told.cas.current.name}: {_named(left)}. Hosts renew soon "
                "after they connect, at once with `segctl-agent renew`; operators get theirs with `segctl-controller "
                "admin renew`. Who is left behind (--force) has to be enrolled again with a token"
            )
        rotation.retire(state)
        told.detail = f"{told.cas.current.name}; left behind: {_named(left) or 'nobody'}"
    click.echo(f"retired: {told.detail}", err=True)
    if left.hosts:
        click.echo(f"next, for each host that is left behind: {_MEND}", err=True)


_MEND = "segctl token create --host NAME --replace, then segctl-agent enrol --replace there"


class _Told:
    """A step that is done: `detail` is for the audit log. `cas` were there before it."""

    def __init__(self, store: Store, cas: CaSet) -> None:
        self.store, self.cas, self.detail = store, cas, ""


@contextmanager
def _step(state: Path, action: str) -> Iterator[_Told]:
    """Alone, and with an entry in the audit log after it."""
    fleet = load_config(state).fleet
    with _opened(state) as store:
        try:
            with rotating(state):
                told = _Told(store, load_cas(state, fleet))
                yield told
        except OSError as error:
            raise StateError(f"{state}: {error.strerror}; mend that, and run it again") from error
        store.add_entry(Entry(Clock().now_us(), SHELL, action, "ca", told.detail))


@contextmanager
def _opened(state: Path) -> Iterator[Store]:
    store = open_store(state)
    try:
        yield store
    finally:
        store.close()


def _next_of(cas: CaSet) -> Authority:
    if cas.next is None:
        raise PreconditionError("no rotation is under way")
    return cas.next


def _counts(held: Holders) -> str:
    return f"{len(held.hosts)} hosts, {len(held.operators)} operators"


def _named(held: Holders) -> str:
    names = [*(f"host {name}" for name in held.hosts), *(f"operator {name}" for name in held.operators)]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
