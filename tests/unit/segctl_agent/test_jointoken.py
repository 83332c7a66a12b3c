from __future__ import annotations

import base64

import pytest
from segctl.errors import EnrolmentError
from segctl_agent.jointoken import parse_join_token

from tests.unit.segctl_agent.pki import Authority

AUTHORITY = Authority()


def test_a_token_is_read() -> None:
    token = parse_join_token(AUTHORITY.token(("ctl:7444", "[2001:db8::1]:7444")) + "\n")
    assert token.controllers == ("127.0.0.1:7443",)
    assert token.enrolment == ("ctl:7444", "[2001:db8::1]:7444")
    assert token.ca == AUTHORITY.der
    assert token.secret == b"s3cret"
    assert "s3cret" not in repr(token)


def test_padding_is_welcome() -> None:
    text = AUTHORITY.token(("ctl:7444",))
    assert parse_join_token(text + "=" * (-len(text) % 4)) == parse_join_token(text)


BAD = {
    "empty": ("", "empty"),
    "spaces": ("  \n", "empty"),
    "two words": ("abc def", "more than one word"),
    "not base64": ("%%%%", "malformed or cut off"),
    "not JSON": (base64.urlsafe_b64encode(b"hello there").decode(), "malformed or cut off"),
    "not UTF-8": (base64.urlsafe_b64encode(b"\xff\xfe\xfd").decode(), "malformed or cut off"),
    "not an object": (base64.urlsafe_b64encode(b"[1]").decode(), "malformed"),
    "nested": (base64.urlsafe_b64encode(b"[" * 10000).decode(), "malformed or cut off"),
    "huge": ("A" * 20000, "the limit is"),
    "no secret": (AUTHORITY.token(("c:1",), s=None), "'s'"),
    "no CA": (AUTHORITY.token(("c:1",), ca=None), "'ca'"),
    "bad CA": (AUTHORITY.token(("c:1",), ca="AAAA"), "no valid CA"),
    "bad base64 CA": (AUTHORITY.token(("c:1",), ca="%"), "'ca'"),
    "no addresses": (AUTHORITY.token(()), "'e'"),
    "no port": (AUTHORITY.token(("host",)), "'e'"),
    "port 0": (AUTHORITY.token(("host:0",)), "'e'"),
    "port too high": (AUTHORITY.token(("host:65536",)), "'e'"),
    "address no text": (AUTHORITY.token(("h:1",), c=[5]), "'c'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tokens_say_what_is_wrong_and_what_to_do(name: str) -> None:
    text, reason = BAD[name]
    with pytest.raises(EnrolmentError, match=reason) as caught:
        parse_join_token(text)
    assert "segctl token create" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_cut_token_never_passes() -> None:
    text = AUTHORITY.token(("ctl:7444",))
    for length in range(len(text)):
        with pytest.raises(EnrolmentError):
            parse_join_token(text[:length])
