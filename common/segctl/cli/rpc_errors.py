"""One table: what a gRPC status means for the exit code and for the person who reads it."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from segctl.cli.config import ClientConfig
from segctl.cli.diagnose import RENEW, diagnose
from segctl.cli.exits import CliError, Exit


@dataclass(frozen=True, slots=True)
class Meaning:
    exit_code: Exit
    prefix: str
    mend: str = ""


NO_ROLE = (
    "segctl whoami shows your role. For another one, on the controller: segctl-controller admin remove NAME, "
    "then admin add NAME --role ROLE --out DIR"
)
SIGN_IN = "Sign in again (segctl login), or ask an administrator for an API token: segctl api-token create NAME"
OLD = "Compare `segctl --version` with `segctl whoami`: client and controller should have the same version."
BROKEN = "Look in the log of the controller: journalctl -u segctl-controller"

MEANINGS: dict[grpc.StatusCode, Meaning] = {
    grpc.StatusCode.UNAVAILABLE: Meaning(Exit.UNREACHABLE, "unreachable"),
    grpc.StatusCode.DEADLINE_EXCEEDED: Meaning(
        Exit.UNREACHABLE, "no answer in time", "Try again; journalctl -u segctl-controller shows what it is doing."
    ),
    grpc.StatusCode.CANCELLED: Meaning(Exit.UNREACHABLE, "cancelled by the controller", "Try again."),
    grpc.StatusCode.UNAUTHENTICATED: Meaning(Exit.NOT_PERMITTED, "does not know you", RENEW),
    grpc.StatusCode.PERMISSION_DENIED: Meaning(Exit.NOT_PERMITTED, "not permitted", NO_ROLE),
    grpc.StatusCode.INVALID_ARGUMENT: Meaning(Exit.FINDINGS, "refused"),
    grpc.StatusCode.NOT_FOUND: Meaning(Exit.FINDINGS, "not found"),
    grpc.StatusCode.ALREADY_EXISTS: Meaning(Exit.FINDINGS, "exists already"),
    grpc.StatusCode.FAILED_PRECONDITION: Meaning(Exit.FINDINGS, "refused"),
    grpc.StatusCode.ABORTED: Meaning(Exit.FINDINGS, "refused: something changed in between", "Look again: segctl plan"),
    grpc.StatusCode.OUT_OF_RANGE: Meaning(Exit.FINDINGS, "refused"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: Meaning(Exit.FINDINGS, "over a limit"),
    grpc.StatusCode.UNIMPLEMENTED: Meaning(Exit.UNREACHABLE, "does not know this call", OLD),
    grpc.StatusCode.INTERNAL: Meaning(Exit.UNREACHABLE, "failed", BROKEN),
    grpc.StatusCode.UNKNOWN: Meaning(Exit.UNREACHABLE, "failed", BROKEN),
    grpc.StatusCode.DATA_LOSS: Meaning(Exit.UNREACHABLE, "failed", BROKEN),
}


def translate(code: grpc.StatusCode, details: str, config: ClientConfig) -> CliError:
    """The error of a call to the controller of `config`. For UNAVAILABLE it asks the network why."""
    meaning = MEANINGS[code]
    where = f"controller {config.controller}"
    if code is grpc.StatusCode.UNAVAILABLE:
        cause, mend = diagnose(config) or (details or "the connection broke", "Try again.")
        return CliError(f"{where}: {meaning.prefix}: {cause}", mend, meaning.exit_code)
    text = f"{where}: {meaning.prefix}: {details}" if details else f"{where}: {meaning.prefix}"
    by_token = code is grpc.StatusCode.UNAUTHENTICATED and not config.certificate
    return CliError(text, SIGN_IN if by_token else meaning.mend, meaning.exit_code)
