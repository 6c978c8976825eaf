"""What parent and worker say to each other, in whatever pieces it comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.lifecycle import Now
from proxy.core.secret import Secret
from proxy.core.text import one_line
from proxy.metrics import Traffic
from proxy.record import RequestRecord
from proxy.secret import SecretRef
from proxy.settings import (
    AllowOrigins,
    Client,
    Duration,
    Limits,
    OAuth,
    Policy,
    RequireHeader,
    Rule,
    Settings,
    Size,
    Upstream,
    UpstreamHeaders,
)
from proxy.workers.protocol import (
    MAX_MESSAGE,
    Acquire,
    Answer,
    Configure,
    Configured,
    Drain,
    Ended,
    Forget,
    Hurry,
    Lend,
    Messages,
    NotUnderstood,
    Refused,
    Report,
    Serving,
    Start,
    Tell,
    ToParent,
    ToWorker,
    Watch,
    encode,
)


def report() -> Report:
    traffic = Traffic()
    record = RequestRecord("GET", "/v1/vehicles", 1.5)
    record.status, record.outcome, record.duration = 200, "ok", 0.25
    record.count(traffic)
    return Report(3, traffic.take(), [Ended.of(record)], 1, 2, {"idle": 1, "active": 0}, 0.001, (20, 1024))


def unusual() -> Settings:
    """Settings with a value of every kind."""
    return Settings(
        upstream=Upstream(connect_timeout=Duration(0.25), headers=UpstreamHeaders(set={"X-Tenant": "7"})),
        oauth=OAuth(clients=(), scope="a b"),
        policy=Policy(
            browsers=AllowOrigins(("https://app.example",)),
            require_header=RequireHeader("X-THG-Proxy", "1"),
            allow=(Rule("/v1/**", ("GET",)),),
        ),
        limits=Limits(max_body=Size(5)),
        workers=2,
    )


TO_WORKER: list[ToWorker] = [
    Start(2, ((5,), (6, 7))),
    Configure(1, 4, Settings(oauth=OAuth(clients=()))),
    Configure(2, 4, unusual()),
    Lend(4, Secret("s3cr3t"), 7, Now(12.5, 1_800_000_000.5)),
    Watch((1, 2)),
    Answer(9),
    Answer(9, "client_rejected", 300.0),
    Tell(3),
    Drain(),
    Hurry(),
]
TO_PARENT: list[ToParent] = [
    Serving(),
    Configured(2),
    Configured(2, "upstream.tls: a file can't be loaded"),
    Acquire(1, 4),
    Refused(2, 4, 7),
    Forget(2),
]


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda message: type(message).__name__)
def test_to_worker(message: ToWorker) -> None:
    """What the parent says arrives as it was said, with the types of the configuration."""
    (received,) = Messages[ToWorker](ToWorker).feed(encode(message))
    assert received == message
    if isinstance(received, Configure):
        assert isinstance(received.settings.upstream.connect_timeout, Duration)
        assert isinstance(received.settings.limits.max_body, Size | None)


@pytest.mark.parametrize("message", TO_PARENT, ids=lambda message: type(message).__name__)
def test_to_parent(message: ToParent) -> None:
    """What a worker says arrives as it was said."""
    assert list(Messages[ToParent](ToParent).feed(encode(message))) == [message]


def test_report() -> None:
    """A report brings every figure, and the last requests."""
    sent = report()
    (received,) = Messages[ToParent](ToParent).feed(encode(sent))
    assert received == sent


def test_ended_requests() -> None:
    """A request is shown elsewhere as where it ended, without its query and with no more of its path (R152)."""
    path = "/a\udcff" + "b" * 1000
    record = RequestRecord("GET", f"{path}?token=1", 1.5)
    record.status, record.outcome, record.duration, record.bytes_out = 200, "ok", 0.25, 7
    ended = Ended.of(record)
    assert ended.target == one_line(path)
    assert ended.record().fields() == record.fields() | {"path": one_line(path)}
    assert ended.record().started == record.started
    assert {*Ended.__struct_fields__, "on_end"} == set(RequestRecord.__slots__)


@given(st.data())
def test_pieces(data: st.DataObject) -> None:
    """Messages come whole and in order, however the bytes are cut."""
    messages = data.draw(st.lists(st.sampled_from(TO_WORKER), min_size=1, max_size=8))
    stream = b"".join(map(encode, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader = Messages[ToWorker](ToWorker)
    received = [
        message
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for message in reader.feed(stream[start:end])
    ]
    assert received == messages


@given(st.binary(max_size=200))
def test_anything(noise: bytes) -> None:
    """Whatever a worker sends, its parent gets messages or NotUnderstood, and nothing else."""
    reader = Messages[ToParent](ToParent)
    framed = len(noise).to_bytes(4) + noise
    for stream in (noise, framed):
        try:
            received = list(reader.feed(stream))
        except NotUnderstood:
            return
        assert all(isinstance(message, ToParent) for message in received)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param((MAX_MESSAGE + 1).to_bytes(4), id="too long"),
        pytest.param(b"\xff\xff\xff\xff", id="much too long"),
        pytest.param(b"\0\0\0\1\xc1", id="no msgpack"),
        pytest.param(b"\0\0\0\0", id="nothing"),
        pytest.param(encode(Drain()), id="from the other side"),
        pytest.param(b"\0\0\0\x08\x91\xa6Report", id="fields missing"),
        pytest.param(b"\0\0\0\x0a\x92\xa6Forget\xa1x", id="of another type"),
    ],
)
def test_not_understood(stream: bytes) -> None:
    """What is no message of a worker ends it; too long a message is not waited for."""
    with pytest.raises(NotUnderstood):
        list(Messages[ToParent](ToParent).feed(stream))


def test_no_secret_by_accident() -> None:
    """Only a loan has a secret in it, which is not seen where it is printed (R146)."""
    clients = (Client(client_secret=SecretRef("literal", "", Secret("s3cr3t"))),)
    with pytest.raises(NotImplementedError, match="Secret"):
        encode(Configure(1, 1, Settings(oauth=OAuth(clients=clients))))
    assert "s3cr3t" not in repr(Lend(4, Secret("s3cr3t"), 7, Now(0, 0)))
