"""The request target: which forms are accepted, that bytes are kept, and that a base path is never left."""

from itertools import product
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.target import Target, join_base, parse_target
from proxy.errors import BadTarget


@pytest.mark.parametrize(
    "raw",
    [
        "/",
        "/a",
        "//127.0.0.1:9299/steal",
        "//evil.example",
        "///",
        "/\\evil/x",
        "/@evil.example/",
        "/http://evil.example/",
        "/a%2Fb%2e%2e/%7ex?y=%2F+&z=%zz&&=&q=1;r=2",
        "/?",
        "/a?b?c",
        "/a?http://evil.example/",
        "/../../etc/passwd",
        "/a/./b/",
        "/a%00b",
        "/a%0d%0aX:1",
        "/%5c..%5c",
        "/;a=1/..;/b",
        "/*",
        '/"<>^`{|}',
    ],
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_origin_form_is_kept(method: str, raw: str) -> None:
    """What starts with a slash is a path of the upstream, byte for byte, whatever it resembles (R32, R34, R36)."""
    target = parse_target(method, raw)
    assert target == Target(None, raw.encode())
    assert join_base(b"", target.origin_form) == raw.encode()


@pytest.mark.parametrize(
    "raw, authority, origin_form",
    [
        ("http://localhost:8080/a?b", b"localhost:8080", b"/a?b"),
        ("HTTPS://LOCALHOST/a", b"LOCALHOST", b"/a"),
        ("http://localhost", b"localhost", b"/"),
        ("http://localhost?a=/b", b"localhost", b"/?a=/b"),
        ("http://[::1]:80//x", b"[::1]:80", b"//x"),
        ("http://evil.example/a", b"evil.example", b"/a"),
        ("http://a@127.0.0.1:9299/", b"a@127.0.0.1:9299", b"/"),
        ("http://localhost@evil.example/", b"localhost@evil.example", b"/"),
        ("http://localhost\\@evil.example/", b"localhost\\@evil.example", b"/"),
        ("http://localhost;x/", b"localhost;x", b"/"),
        ("http:///a", b"", b"/a"),
        ("http://localhost/http://evil.example/", b"localhost", b"/http://evil.example/"),
    ],
)
def test_absolute_form_gives_its_whole_authority(raw: str, authority: bytes, origin_form: bytes) -> None:
    """The authority is everything up to the path: userinfo or a backslash hides no foreign host in it (R33)."""
    assert parse_target("GET", raw) == Target(authority, origin_form)


@pytest.mark.parametrize(
    "raw, target", [("*", Target(None, b"*")), ("http://localhost:80", Target(b"localhost:80", b"*"))]
)
def test_asterisk_is_for_options(raw: str, target: Target) -> None:
    """OPTIONS of the server as a whole: the asterisk, or an absolute form without a path (R20, RFC 9112 §3.2.4)."""
    assert parse_target("OPTIONS", raw) == target
    assert join_base(b"", target.origin_form) == b"*"


@pytest.mark.parametrize(
    "method, raw",
    [
        ("GET", ""),
        ("GET", "a"),
        ("GET", "*"),
        ("HEAD", "*"),
        ("OPTIONS", "**"),
        ("OPTIONS", "*/a"),
        ("GET", "@evil/x"),
        ("GET", ".evil/x"),
        ("GET", ":80/x"),
        ("GET", "?a"),
        ("GET", "localhost:80"),
        ("GET", "ftp://localhost/a"),
        ("GET", "file:///etc/passwd"),
        ("GET", "http:/a"),
        ("GET", "http:a"),
        ("GET", "http//localhost/a"),
        ("GET", "/a#f"),
        ("GET", "/a?b#f"),
        ("GET", "http://localhost#/a"),
        ("GET", "/a\xff"),
        ("GET", "/a\udcff"),
        ("GET", "\uff0fa"),
    ],
)
def test_other_forms_are_refused(method: str, raw: str) -> None:
    """No fragment, no other scheme, no byte outside ASCII, nothing that would continue the authority (R20, R32)."""
    with pytest.raises(BadTarget):
        parse_target(method, raw)


@pytest.mark.parametrize(
    "target, joined",
    [
        (b"/", b"/v1/"),
        (b"/a?b=../..&c=%2e%2e/", b"/v1/a?b=../..&c=%2e%2e/"),
        (b"//evil/x", b"/v1//evil/x"),
        (b"/a%2Fb", b"/v1/a%2Fb"),
        (b"/.", b"/v1/."),
        (b"/.;/admin", b"/v1/.;/admin"),
        (b"/...", b"/v1/..."),
        (b"/..a/a../.a.", b"/v1/..a/a../.a."),
        (b"/%2e%2ea", b"/v1/%2e%2ea"),
        (b"/a%25b%zz%", b"/v1/a%25b%zz%"),
        (b"/%252561", b"/v1/%252561"),
        (b"/%c0%af/%ef%bc%8e/%u002e/%u00", b"/v1/%c0%af/%ef%bc%8e/%u002e/%u00"),
        (b"/%e2%80%a4%e2%80%a4/%ud800", b"/v1/%e2%80%a4%e2%80%a4/%ud800"),
    ],
)
def test_base_path_is_put_in_front(target: bytes, joined: bytes) -> None:
    """Below a base path the bytes are kept just the same (R34)."""
    assert join_base(b"/v1", target) == joined


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"/..",
        b"/../admin",
        b"/a/../../admin",
        b"/a/..",
        b"/..?a",
        b"/%2e%2e/admin",
        b"/.%2E/admin",
        b"/..%2fadmin",
        b"/..%2Fadmin",
        b"/a%2f..%2f..%2fadmin",
        b"/..\\admin",
        b"/a\\..\\admin",
        b"/..%5cadmin",
        b"/..;/admin",
        b"/..;x=1/admin",
        b"/..%3b/admin",
        b"/%252e%252e/admin",
        b"/%252e%252e%252fadmin",
        b"/..%255cadmin",
        b"/%25252e%25252e/admin",
        b"//../admin",
        # Every octet of the escape escaped: decoded twice it is `..`.
        b"/%25%32%65%25%32%65/admin",
        b"/%2%65%2%65/admin",
        b"/%%32%65%%32%65/admin",
        b"/..%25%32%66admin",
        b"/..%00/admin",
        b"/..%00x/admin",
        b"/.%09./admin",
        b"/..%0d%0a/admin",
        b"/%c0%ae%c0%ae/admin",
        b"/..%c0%afadmin",
        b"/%c0%2e%c0%2e/admin",
        b"/%c0%6e%c0%ee/admin",
        b"/%e0%80%ae%e0%80%ae/admin",
        b"/..%e0%80%afadmin",
        b"/%f0%80%80%ae%f0%80%80%ae/admin",
        b"/%f8%80%80%80%ae%fc%80%80%80%80%ae/admin",
        b"/..%c0%2fadmin",
        b"/..%c0%6fadmin",
        b"/..%c0%efadmin",
        b"/..%c1%1cadmin",
        b"/..%c1%5cadmin",
        b"/..%c1%9cadmin",
        b"/..%c1%dcadmin",
        b"/..%f0%80%81%9cadmin",
        b"/..%f8%80%80%81%9cadmin",
        b"/..%fc%80%80%80%81%9cadmin",
        b"/..%e0%81%9cadmin",
        b"/%u002e%u002E/admin",
        b"/..%u2215%u002f..%u005cadmin",
        b"/%ef%bc%8e%ef%bc%8e/admin",
        b"/..%ef%bc%8fadmin",
        b"/..%ef%bc%bcadmin",
        b"/%uff0e%uFF0E/admin",
        b"/%25uff0e./admin",
        # Nobody encodes a letter four times who means the letter.
        b"/%25252561",
    ],
)
def test_base_path_is_not_left(target: bytes) -> None:
    """A `..` segment is refused in every spelling that some server decodes, once or twice (R35)."""
    with pytest.raises(BadTarget) as caught:
        join_base(b"/v1", target)

    assert caught.value.detail == "The request target may not leave the base path of upstream.url."


def leaves_base(path: bytes) -> bool:
    """Does some server, which removes dot segments after its own idea of decoding, resolve `path` above its start?

    The ideas: decode never, once or twice; a backslash is a slash or not; a segment ends at its first `;` or not.
    """
    for decodings, backslash, parameters in product(range(3), (False, True), (False, True)):
        seen = path.partition(b"?")[0]
        for _ in range(decodings):
            seen = unquote_to_bytes(seen)
        if backslash:
            seen = seen.replace(b"\\", b"/")
        depth = 0
        for segment in seen.split(b"/"):
            name = segment.partition(b";")[0] if parameters else segment
            if name == b"..":
                depth -= 1
            elif name not in (b"", b"."):
                depth += 1
            if depth < 0:
                return True
    return False


pieces = [
    b"/",
    b".",
    b"..",
    b"%2e",
    b"%2E",
    b"%2f",
    b"%5C",
    b"\\",
    b";",
    b"%3b",
    b"%25",
    b"%",
    b"2",
    b"e",
    b"%32",
    b"%65",
]
climbing = st.lists(st.sampled_from([*pieces, b"f", b"a", b"?"]), max_size=14).map(lambda parts: b"/" + b"".join(parts))


@given(climbing)
@example(b"/%25%32e%25%32e/")
@example(b"/.%2%65")
def test_no_reading_of_an_accepted_target_leaves_the_base(target: bytes) -> None:
    """Whatever is accepted stays below the base path for a server that decodes up to twice (R35)."""
    try:
        joined = join_base(b"/v1", target)
    except BadTarget:
        return
    assert joined == b"/v1" + target
    assert not leaves_base(target)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#")))
def test_any_origin_form_comes_out_unchanged(rest: str) -> None:
    """Any path and query of visible ASCII without a fragment passes as it is (R34)."""
    target = parse_target("GET", "/" + rest)
    assert target == Target(None, b"/" + rest.encode())
    assert join_base(b"", target.origin_form) == b"/" + rest.encode()


@given(st.sampled_from(["GET", "OPTIONS"]), st.one_of(st.text(), st.text("/:*?#@.htps\\a")))
@example("GET", "http://a\n/b")
def test_anything_is_accepted_or_refused(method: str, raw: str) -> None:
    """Whatever aiohttp lets through is a target of ours or a BadTarget; nothing else becomes a path (R20, R32)."""
    try:
        authority, origin_form = parse_target(method, raw)
    except BadTarget:
        return
    assert raw.isascii()
    assert "#" not in raw
    if authority is None:
        assert origin_form == raw.encode()
    else:
        assert raw.encode().split(b"://", 1)[1].startswith(authority)
        assert not set(authority) & set(b"/?#")
    assert origin_form.startswith(b"/") or (origin_form == b"*" and method == "OPTIONS")
