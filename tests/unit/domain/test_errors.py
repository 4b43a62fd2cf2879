"""The errors are the contract's table, and each is listed."""

import pytest

from server.domain import errors
from server.domain.errors import ERRORS, ChatError, InternalError

TABLE = {
    "unauthenticated": 401,
    "token_invalid": 401,
    "token_revoked": 401,
    "token_expired": 401,
    "forbidden": 403,
    "not_found": 404,
    "invalid": 422,
    "unknown_event": 404,
    "too_large": 413,
    "conflict": 409,
    "rate_limited": 429,
    "unavailable": 503,
    "draining": 503,
    "internal": 500,
}


def test_codes_and_statuses_are_those_of_the_contract() -> None:
    assert {error.code: error.http_status for error in ERRORS} == TABLE
    assert len(ERRORS) == len(TABLE)


def test_every_error_there_is_is_listed() -> None:
    defined = {
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ChatError)
    }
    assert defined - {ChatError} == set(ERRORS)


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_says_what_a_client_does(error: type[ChatError]) -> None:
    assert error.doc.endswith(".")
    assert error.doc[0].isupper()


@pytest.mark.parametrize("error", [each for each in ERRORS if each is not InternalError])
def test_an_error_keeps_what_it_was_given(error: type[ChatError]) -> None:
    raised = error("said to the client", field="content", retry_after_ms=5)
    assert (str(raised), raised.message) == ("said to the client", "said to the client")
    assert (raised.field, raised.retry_after_ms) == ("content", 5)
    assert (error("x").field, error("x").retry_after_ms) == (None, None)


def test_an_internal_error_shows_its_id_and_nothing_else() -> None:
    raised = InternalError("abc")
    assert raised.error_id == "abc"
    assert "abc" not in raised.message
