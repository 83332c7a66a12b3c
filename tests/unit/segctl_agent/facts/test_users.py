"""resolve_users against this machine's own passwd and group."""

from __future__ import annotations

from segctl_agent.facts.users import resolve_users, user_name


def test_names_numbers_and_strangers():
    found = resolve_users(["root", "1234", "no-such-user-here", "", "4294967295", "a\0b", "\u0663"])
    assert found == {"root": 0, "1234": 1234}


def test_groups_are_told_from_users():
    found = resolve_users(["group:root", "group:1234", "group:no-such-group-here", "group:4294967295", "group:"])
    assert found == {"group:root": 0, "group:1234": 1234}


def test_a_uid_without_a_name_is_its_digits():
    assert user_name(0) == "root"
    assert user_name(3_999_999_999) == "3999999999"
