"""Who may do what on the Admin service: the role is in the store, by the certificate's name and serial number."""

from __future__ import annotations

from segctl.errors import SegctlError

from segctl_controller.errors import ForbiddenError, UnauthenticatedError
from segctl_controller.rpc import Context, Refusing, caller_of
from segctl_controller.store.records import OperatorRecord, Role
from segctl_controller.store_thread import StoreThread


class Gate:
    def __init__(self, fleet: str, db: StoreThread) -> None:
        self._fleet = fleet
        self._db = db

    async def admit(self, context: Context, need: Role) -> OperatorRecord:
        """Read from the store at each call, so that `segctl-controller admin remove` works at once.

        Raises UnauthenticatedError for an unknown or replaced operator, ForbiddenError without the role.
        """
        caller = caller_of(context, self._fleet, "admin")
        operator = await self._db.call(self._db.store.operator, caller.name)
        if operator is None:
            raise UnauthenticatedError(
                f"the operator {caller.name!r} was removed; ask for a new certificate: segctl-controller admin add "
                f"{caller.name}"
            )
        if operator.serial != caller.serial:
            raise UnauthenticatedError(
                f"the operator {caller.name!r} has a newer certificate: use that one, or ask for another: "
                f"segctl-controller admin renew {caller.name} --out DIR"
            )
        if operator.role.rank < need.rank:
            raise ForbiddenError(
                f"this needs the role {need.value}; {operator.name!r} has the role {operator.role.value}; ask an "
                "administrator to do it, or to give you the role"
            )
        return operator

    def open(self, context: Context, need: Role) -> Passage:
        """The body of every Admin method: admit the caller, and turn errors into statuses."""
        return Passage(self, context, need)


class Passage(Refusing):
    """`async with` it: the admitted operator."""

    def __init__(self, gate: Gate, context: Context, need: Role) -> None:
        super().__init__(context)
        self._gate = gate
        self._need = need

    async def __aenter__(self) -> OperatorRecord:  # type: ignore[override]
        try:
            return await self._gate.admit(self._context, self._need)
        except SegctlError as error:
            await self.__aexit__(type(error), error, None)
            raise
