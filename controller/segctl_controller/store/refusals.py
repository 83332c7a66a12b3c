"""What the stores say when they refuse something: the same words, whichever it is."""

from __future__ import annotations

from segctl_controller.store.records import GroupRecord

NO_TOKEN = "this token is unknown, used up, expired or revoked"  # noqa: S105 - a sentence


def base_moved(expected: int, active: int) -> str:
    return (
        f"another push came between: you planned against generation {expected}, active is {active}; "
        "run segctl plan again, look at the difference, then push"
    )


def on_trial(number: int) -> str:
    return (
        f"generation {number} is on trial: wait until it is confirmed or undone (segctl status shows it), or end it "
        "with segctl rollback"
    )


def not_on_trial(number: int) -> str:
    return f"generation {number} is not on trial any more"


def no_host(name: str) -> str:
    return f"no host {name!r} is enrolled; segctl host list shows those that are"


def tags_moved(name: str) -> str:
    return f"somebody else changed the tags of host {name!r} in between; look at them (segctl host list) and try again"


def no_token(token_id: str) -> str:
    return f"no token {token_id!r}; segctl token list shows those that can still be used"


def no_operator(name: str) -> str:
    return f"no operator {name!r}; segctl-controller admin list shows them"


def operator_taken(name: str) -> str:
    return f"an operator {name!r} exists already; remove it first: segctl-controller admin remove {name}"


def api_token_taken(name: str) -> str:
    return f"an API token {name!r} exists already; revoke it first, or choose another name"


def no_api_token(token_id: str) -> str:
    return f"no API token {token_id!r}; segctl api-token list shows them"


def group_taken(group: GroupRecord) -> str:
    return f"the group {group.name!r} has the role {group.role.value} already ({group.scope or 'the whole fleet'})"


def no_group(name: str) -> str:
    return f"no group {name!r} is mapped; segctl-controller admin groups shows them"


MOST_DECISIONS = 5_000


def no_decision(identifier: str) -> str:
    return f"nothing was decided about suggestion {identifier}; segctl review --decided lists what was"


def too_many_decisions() -> str:
    return f"there are {MOST_DECISIONS} decisions about suggestions; take some back: segctl review forget ID"
