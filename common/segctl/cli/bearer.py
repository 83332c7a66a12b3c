"""What is shown in place of a certificate: an API token, or the ID token of a sign-in that is refreshed in time."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from segctl.apitoken import is_whole
from segctl.cli.config import ClientConfig
from segctl.cli.exits import CliError, Exit
from segctl.oidcweb import WebError, fetch_json, token_claims

Bearer = Callable[[], str]
SESSION_FILE = "session.json"
EARLY = 60
"""Seconds before its end from which an ID token is refreshed."""
LARGEST = 256 * 1024
LOG_IN = "Sign in: segctl login"


@dataclass(frozen=True, slots=True)
class Session:
    """A sign-in at the OpenID provider, kept in a file that only we may read."""

    issuer: str
    client_id: str
    token_endpoint: str
    revocation_endpoint: str = ""
    id_token: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)

    @property
    def ends(self) -> float:
        """Unix time; 0 for a token that does not say. Whether it is good is the controller's business."""
        end = token_claims(self.id_token).get("exp", 0)
        return float(end) if isinstance(end, int | float) else 0.0

    def refreshed(self) -> Session:
        """Raises CliError when the provider does not want to."""
        if not self.refresh_token:
            raise CliError("your sign-in has ended", LOG_IN, Exit.NOT_PERMITTED)
        form = {"grant_type": "refresh_token", "refresh_token": self.refresh_token, "client_id": self.client_id}
        try:
            answer = fetch_json(self.token_endpoint, form)
        except WebError as error:
            if error.code:
                raise CliError(f"your sign-in has ended: {error}", LOG_IN, Exit.NOT_PERMITTED) from error
            raise CliError(f"the sign-in cannot be renewed: {error}", "Try again.", Exit.UNREACHABLE) from error
        return self.answered(answer)

    def answered(self, answer: Mapping[str, Any]) -> Session:
        """With the tokens of this answer of the token endpoint. Raises CliError where it brings no ID token."""
        token, refresh = answer.get("id_token"), answer.get("refresh_token") or self.refresh_token
        if not isinstance(token, str) or not isinstance(refresh, str):
            raise CliError(
                f"{self.issuer} gave no ID token", "Its client must allow the scope openid.", Exit.NOT_PERMITTED
            )
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return Session(**{**kept, "id_token": token, "refresh_token": refresh})


def bearer_of(environment: Mapping[str, str], config: ClientConfig) -> Bearer | None:
    """SEGCTL_TOKEN_FILE or SEGCTL_TOKEN, then the certificate (None), then the sign-in. Raises CliError."""
    file, word = environment.get("SEGCTL_TOKEN_FILE"), environment.get("SEGCTL_TOKEN")
    if file and word:
        raise CliError("SEGCTL_TOKEN and SEGCTL_TOKEN_FILE are both set", "Unset one of them.", Exit.USAGE)
    if file or word:
        token = read_private(Path(file)).decode("ascii", "replace").strip() if file else (word or "").strip()
        if not is_whole(token):
            name = "SEGCTL_TOKEN_FILE" if file else "SEGCTL_TOKEN"
            raise CliError(f"{name} holds no API token, or not all of one", "It begins with segctl_.", Exit.USAGE)
        return lambda: token
    if config.certificate:
        return None
    return SignedIn(config.directory / SESSION_FILE)


class SignedIn:
    """The ID token of the session in a file, renewed there when it is about to end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session = load_session(path)

    def __call__(self) -> str:
        if time.time() > self._session.ends - EARLY:
            self._session = self._session.refreshed()
            save_session(self._path, self._session)
        return self._session.id_token


def load_session(path: Path) -> Session:
    """Raises CliError where nobody is signed in."""
    if not path.exists():
        mend = f"{LOG_IN}. Or name an API token in SEGCTL_TOKEN_FILE."
        raise CliError(f"{path.parent}: no certificate here, and nobody is signed in", mend, Exit.NOT_PERMITTED)
    try:
        return Session(**json.loads(read_private(path)))
    except (ValueError, TypeError) as error:
        raise CliError(f"{path}: is no sign-in: {error}", LOG_IN, Exit.USAGE) from error


def save_session(path: Path, session: Session) -> None:
    """Whole or not at all, for us alone. Raises CliError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".session.", delete=False) as file:  # mode 0600
            json.dump(asdict(session), file)
        Path(file.name).replace(path)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}", "Check the directory.", Exit.USAGE) from error


def read_private(path: Path) -> bytes:
    """Raises CliError for a file that cannot be read, or that others may read."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and mode & 0o077:
                raise CliError(
                    f"{path}: others may read this secret (mode {mode:04o})", f"chmod 600 {path}", Exit.USAGE
                )
            return file.read(LARGEST)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror or error}", "Name a file that holds a token.", Exit.USAGE) from error
