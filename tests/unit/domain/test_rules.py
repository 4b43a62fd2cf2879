"""Texts, names, ids and who may do what."""

import re
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import rules
from server.domain.errors import ForbiddenError, InvalidError
from server.domain.models import Role
from tests.builders import member, room

ROLES: tuple[Role, ...] = ("member", "admin", "owner")
GOOD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
BAD = st.builds("{}{}{}".format, GOOD, st.sampled_from(["\x00", "\ud800", "\udfff", "\udc00\ud800"]), GOOD)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | GOOD
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(GOOD, inner), max_leaves=10)


@given(JSON)
def test_good_text_is_found_good_at_any_depth(value: object) -> None:
    assert rules.find_bad_text(value) is None


@given(st.data(), BAD, JSON)
def test_bad_text_is_found_at_any_depth_as_value_and_as_key(
    data: st.DataObject, bad: str, other: object
) -> None:
    value: object = {bad: other} if data.draw(st.booleans(), "as a key") else bad
    for wrap in data.draw(st.lists(st.sampled_from(["list", "object"]), max_size=6), "inside"):
        value = [other, value, other] if wrap == "list" else {"good": other, "inner": value}
    assert rules.find_bad_text(value) is not None


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"content": "a\x00"}, "content"),
        ({"content": "\ud83d"}, "content"),
        ({"content": "\ud83d\ude00"}, "content"),
        ({"rooms": {"plaza\x00": 1}}, "rooms"),
        ({"\x00": 1}, "payload"),
        ({"member_ids": ["a", "b\x00"]}, "member_ids"),
        ({"a": {"b": [{"c": "\x00"}]}}, "a.b.c"),
    ],
)
def test_the_path_of_bad_text_is_that_of_its_field(payload: object, path: str) -> None:
    assert rules.find_bad_text(payload) == path


@given(st.text())
def test_a_subject_from_outside_never_becomes_a_built_in_account(subject: str) -> None:
    user_id = rules.user_id_of_subject(subject)
    assert not user_id.startswith(rules.BUILT_IN_USER_PREFIX)
    assert re.fullmatch(r"(~s)?[A-Za-z0-9_-]{1,64}", user_id)
    assert rules.user_id_of_subject(subject) == user_id


@pytest.mark.parametrize("subject", ["~u1", "~uabc", "~s", "", "a" * 65, "juan@example.org", "a\n", "ana "])
def test_a_subject_that_is_no_id_is_hashed(subject: str) -> None:
    user_id = rules.user_id_of_subject(subject)
    assert user_id.startswith("~s")
    assert rules.user_id_of_subject(user_id) != user_id, "so nobody takes it by naming it"


@given(st.lists(st.text(max_size=70), min_size=2, max_size=2, unique=True))
def test_no_two_subjects_share_an_id(subjects: list[str]) -> None:
    one, other = map(rules.user_id_of_subject, subjects)
    assert one != other


@given(st.text())
def test_a_checked_username_is_of_its_alphabet_and_checked_again_the_same(username: str) -> None:
    try:
        checked = rules.checked_username(username)
    except InvalidError as error:
        assert error.field == "username"  # noqa: PT017 - what is refused is as much the rule as what is not
    else:
        assert re.fullmatch(r"[a-z0-9_.-]{3,32}", checked)
        assert rules.checked_username(checked.upper()) == checked


@given(st.lists(st.none() | st.text(), max_size=3), st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True))
def test_a_username_made_of_anything_is_usable_also_with_a_suffix(
    names: list[str | None], suffix: str
) -> None:
    username = rules.username_from(*names)
    assert rules.checked_username(username) == username
    suffixed = rules.with_suffix(username, suffix)
    assert rules.checked_username(suffixed) == suffixed
    assert suffixed.endswith(f"-{suffix}")


@pytest.mark.parametrize(
    ("names", "username"),
    [
        (("José Pérez",), "jose-perez"),
        ((None, "", "ab", "ana"), "ana"),
        (("李小龍",), "user"),
        (("..x..y..",), "x..y"),
        (("a" * 40,), "a" * 32),
    ],
)
def test_a_username_resembles_the_first_name_that_yields_one(
    names: tuple[str | None, ...], username: str
) -> None:
    assert rules.username_from(*names) == username


@pytest.mark.parametrize(
    ("check", "longest"), [(rules.checked_display_name, 64), (rules.checked_room_name, 100)]
)
@given(st.text())
def test_names_are_trimmed_and_of_limited_length(
    check: Callable[[str], str], longest: int, name: str
) -> None:
    for candidate in (name, f"  {name}\n", name * 30):
        try:
            checked = check(candidate)
        except InvalidError:
            assert not 1 <= len(candidate.strip()) <= longest
        else:
            assert checked == candidate.strip()


@pytest.mark.parametrize(
    ("content", "is_good"), [("", False), (" ", True), ("😀" * 5, True), ("x" * 6, False)]
)
def test_content_is_measured_in_code_points_and_left_as_it_came(content: str, *, is_good: bool) -> None:
    if is_good:
        assert rules.checked_content(content, 5) == content
    else:
        with pytest.raises(InvalidError) as refused:
            rules.checked_content(content, 5)
        assert refused.value.field == "content"


PARTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4)


@given(PARTS, PARTS)
def test_a_digest_tells_its_parts_apart(one: list[str], other: list[str]) -> None:
    assert (rules.digest_of(*one) == rules.digest_of(*other)) == (one == other)


@given(st.lists(st.sampled_from(["", "1", ":", "1:", "1:a", "a"]), max_size=5), st.data())
def test_a_digest_tells_apart_where_one_part_ends(parts: list[str], data: st.DataObject) -> None:
    """All ways to cut the same text differ."""
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    other = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert (rules.digest_of(*parts) == rules.digest_of(*other)) == (parts == other)


def test_a_digest_stays_what_it_is() -> None:
    """It stands in every log: another one would make new messages of all repeats."""
    assert rules.digest_of("message", "room", "juan", "1") == "5152e8bac45b5b195eca13b12342644d"
    assert re.fullmatch("[0-9a-f]{32}", rules.digest_of())


@given(st.text(), st.text())
def test_the_direct_room_of_two_is_the_same_from_both_sides(one: str, other: str) -> None:
    assert rules.direct_key(one, other) == rules.direct_key(other, one)


@given(st.lists(st.from_regex(r"~?[A-Za-z0-9_-]{1,5}", fullmatch=True), min_size=4, max_size=4))
def test_two_pairs_of_people_have_two_direct_rooms(ids: list[str]) -> None:
    a, b, c, d = ids
    assert (rules.direct_key(a, b) == rules.direct_key(c, d)) == (sorted((a, b)) == sorted((c, d)))


def _may(check: Callable[..., None], *args: object) -> bool:
    try:
        check(*args)
    except ForbiddenError:
        return False
    return True


def test_admins_and_owners_are_admins() -> None:
    assert [role for role in ROLES if _may(rules.require_admin, member(role=role))] == ["admin", "owner"]


def test_only_a_group_or_public_room_has_members_to_manage() -> None:
    assert not _may(rules.require_not_direct, room(kind="direct"))
    assert _may(rules.require_not_direct, room(kind="group"))
    assert _may(rules.require_not_direct, room(kind="public"))


def test_an_admin_removes_all_but_owners_and_an_owner_everyone() -> None:
    allowed = {
        (actor, target)
        for actor, target in product(ROLES, ROLES)
        if _may(rules.require_may_remove, member(role=actor), member(role=target))
    }
    assert allowed == {("admin", "member"), ("admin", "admin"), *product(["owner"], ROLES)}


def test_only_an_owner_makes_or_unmakes_owners() -> None:
    allowed = {
        (actor, target, role)
        for actor, target, role in product(ROLES, ROLES, ROLES)
        if _may(rules.require_may_set_role, member(role=actor), member(role=target), role)
    }
    low: tuple[Role, ...] = ("member", "admin")
    assert allowed == {*product(["admin"], low, low), *product(["owner"], ROLES, ROLES)}
