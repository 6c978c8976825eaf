import copy
import json
import logging
import pickle
import pprint
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest

from proxy.core.secret import MASK, Secret

CANARY = "c4n4ry"
SECRET = Secret(CANARY)


@dataclass
class _Holder:
    secret: Secret


class _Struct(msgspec.Struct):
    secret: Secret


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        format,
        lambda secret: f"{secret} {secret!r} {secret!s} {secret!a} {secret:>10}",
        lambda secret: "%s %r %a" % (secret, secret, secret),  # noqa: UP031 - that is what is tested
        "{0} {0!r}".format,
        lambda secret: repr([secret, {"key": secret}, (secret,)]),
        lambda secret: repr(_Holder(secret)),
        lambda secret: repr(_Struct(secret)),
        lambda secret: pprint.pformat({"secret": secret}),
        lambda secret: json.dumps({"secret": secret}, default=str),
        lambda secret: repr(ValueError("bad", secret)),
        lambda secret: str(ValueError(secret)),
        lambda secret: repr(dir(secret)),
    ],
)
def test_printed(show: Callable[[Secret], str]) -> None:
    """Every way of printing shows the mask, and not the text (R146)."""
    assert CANARY not in show(SECRET)


def test_laid_out() -> None:
    """The mask fills its column."""
    assert f"{SECRET:>5}|{SECRET:<5}" == "  ***|***  "


def test_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A log call with a secret among its arguments logs the mask (R146)."""
    logging.getLogger("test").warning("%s %r", SECRET, SECRET, extra={"secret": SECRET})
    assert caplog.messages == [f"{MASK} Secret({MASK})"]


@pytest.mark.parametrize(
    "serialise",
    [json.dumps, pickle.dumps, copy.copy, copy.deepcopy, msgspec.json.encode, msgspec.msgpack.encode, vars],
)
def test_serialised(serialise: Callable[[Secret], object]) -> None:
    """What would write the text somewhere is refused, and the refusal does not hold it (R146)."""
    with pytest.raises(TypeError) as caught:
        serialise(SECRET)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy])
def test_copied(copied: Callable[[Secret], object]) -> None:
    """Whoever tries learns that it is meant (R146)."""
    with pytest.raises(TypeError, match=r"^a Secret is not pickled$"):
        copied(SECRET)


def test_revealed() -> None:
    """`reveal` is the one way to the text; secrets are compared by it, and an empty one is false."""
    assert SECRET.reveal() == CANARY
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a")
    assert not Secret("")
