"""SignIn.Options: where to sign in, for whoever is nobody yet."""

# ruff: noqa: N802 - the service's methods are named by the protocol

from __future__ import annotations

from segctl.proto.v1 import admin_pb2, admin_pb2_grpc

from segctl_controller.config import Oidc
from segctl_controller.enrolment import peer_network
from segctl_controller.errors import LimitError
from segctl_controller.limits import LIMITS
from segctl_controller.pace import BoundedPaces
from segctl_controller.rpc import Context, Refusing, source_address

LIMIT = LIMITS["/segctl.v1.SignIn/Options"]


class SignIn(admin_pb2_grpc.SignInServicer):
    def __init__(self, provider: Oidc | None) -> None:
        self._provider = provider
        self._paces = BoundedPaces()

    async def Options(self, request: admin_pb2.SignInOptionsRequest, context: Context) -> admin_pb2.SignInOptionsReply:
        async with Refusing(context):
            network = peer_network(source_address(context))
            if self._paces.take((network, ""), LIMIT.rate, LIMIT.burst, 0.0) is None:
                raise LimitError(f"too many questions from {network}; wait a moment")
            if self._provider is None:
                return admin_pb2.SignInOptionsReply()
            found = self._provider
            return admin_pb2.SignInOptionsReply(issuer=found.issuer, client_id=found.client_id, scopes=found.scopes)
