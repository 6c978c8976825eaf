import ssl
from pathlib import Path

from proxy.demo.certificates import CertificateAuthority
from tests.doctor.reports import Doctor
from tests.peers import Upstream


def shown(doctor: Doctor, context: ssl.SSLContext, authority: CertificateAuthority, host: str = "localhost") -> str:
    """All that is said about the handshake with the upstream, with a line for each text."""
    with Upstream(tls=context) as upstream:
        report = doctor(f"upstream.url=https://{host}:{upstream.port}", f"upstream.tls.ca_file={authority.ca_file}")
    step = report.steps["upstream TLS"]
    return "\n".join([*step["found"], step["cause"] or ""])


def test_all_that_is_sent(doctor: Doctor, authority: CertificateAuthority, tmp_path: Path) -> None:
    """Every certificate that the server sends is shown, in its order."""
    issued = authority.issue("localhost")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(issued.cert_file.read_bytes() + authority.ca_file.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, issued.key_file)

    _, first, second, _ = shown(doctor, context, authority).split("\n")

    assert first.startswith("CN=localhost, issued by CN=thg-proxy demo CA, until ")
    assert second.startswith("CN=thg-proxy demo CA, issued by CN=thg-proxy demo CA, until ")


def test_names_are_a_few(doctor: Doctor, authority: CertificateAuthority) -> None:
    """A certificate for hundreds of names is not listed with all of them."""
    names = [f"host-{number}.example" for number in range(300)]
    said = shown(doctor, authority.server_context(*names), authority)
    assert "but for host-0.example, host-1.example, host-2.example, host-3.example, host-4.example" in said
    assert "host-5.example" not in said


def test_words_of_a_peer(doctor: Doctor, authority: CertificateAuthority) -> None:
    """What a certificate says can't break a line, move the cursor or flood the terminal (R151)."""
    said = shown(doctor, authority.server_context("\x1b[2J\r\n" + "x" * 50), authority)
    assert all(line.isprintable() and len(line) <= 256 for line in said.split("\n"))
    assert "x" * 50 in said
