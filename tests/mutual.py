"""A provider that looks at the certificates of its clients."""

import ssl

from aiohttp import web

from proxy.demo.authorization import Client as RegisteredClient
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider, common_name


class CertificateWatcher(DemoProvider):
    """Keeps, for each request, its path and the name in the certificate that came with it."""

    def __init__(self, *clients: RegisteredClient) -> None:
        super().__init__(*clients or (RegisteredClient(auth_method="tls_client_auth"),))
        self.shown: list[tuple[str, str | None]] = []

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        self.shown.append((request.path, common_name(request)))
        return await super().respond(request)


def asking_for_certificates(authority: CertificateAuthority, host: str = "127.0.0.1") -> ssl.SSLContext:
    """A server's side of TLS that asks for a certificate and insists on none."""
    context = authority.server_context(host)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(authority.ca_file)
    return context
