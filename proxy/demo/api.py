"""A sample API in the manner of a fleet's: it answers nobody without a token of its provider."""

import hashlib
import uuid
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from proxy.demo.idp import DemoProvider
from proxy.demo.server import Handler, LoopbackServer

_VEHICLES: dict[str, dict[str, Any]] = {
    "1": {"id": "1", "plate": "B-TH 1001E", "kind": "car", "quota_year": 2026, "state": "certified"},
    "2": {"id": "2", "plate": "HH-G 2002E", "kind": "van", "quota_year": 2026, "state": "submitted"},
    "3": {"id": "3", "plate": "M-Q 3003E", "kind": "lorry", "quota_year": 2026, "state": "draft"},
}
_CHARGING_POINTS = [
    {"id": "DE*DEM*E1", "city": "Berlin", "power_kw": 22},
    {"id": "DE*DEM*E2", "city": "Hamburg", "power_kw": 150},
]


class DemoApi(LoopbackServer):
    """Takes the access tokens that `provider` signed, as long as the JWKS shows their key.

    `refused` are valid tokens that it does not take any more; `fault` answers in place of everything else.
    """

    def __init__(self, provider: DemoProvider) -> None:
        super().__init__()
        self.refused: set[str] = set()
        self.fault: Handler | None = None
        self._provider = provider

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.fault is not None:
            return await self.fault(request)
        if (challenge := self._challenge(request)) is not None:
            return web.json_response({"error": "unauthorized"}, status=401, headers={"WWW-Authenticate": challenge})
        return await _resource(request)

    def _challenge(self, request: web.BaseRequest) -> str | None:
        """None for a valid token; otherwise what is wrong (RFC 6750 §3.1 has no error where there is no token)."""
        lines = request.headers.getall("Authorization", [])
        if not lines:
            return "Bearer"
        scheme, _, token = lines[0].partition(" ")
        if len(lines) == 1 and scheme.lower() == "bearer" and token not in self.refused and self._is_valid(token):
            return None
        return 'Bearer error="invalid_token"'

    def _is_valid(self, token: str) -> bool:
        claims = jwt.JWTClaimsRegistry(iss={"essential": True, "value": self._provider.issuer}, exp={"essential": True})
        try:
            decoded = jwt.decode(
                token, KeySet(list(self._provider.published)), registry=JWSRegistry(algorithms=["RS256"])
            )
            claims.validate(decoded.claims)
        except (JoseError, ValueError):
            return False
        return True


async def _resource(request: web.BaseRequest) -> web.StreamResponse:
    # Of the target as it was sent: a path that was decoded could be taken for another one.
    path = request.raw_path.partition("?")[0]
    match request.method, path.split("/")[1:]:
        case _, ["echo", *_]:
            return await _echo(request)
        case "GET" | "HEAD", ["v1", "vehicles"]:
            return web.json_response({"vehicles": list(_VEHICLES.values())})
        case "GET" | "HEAD", ["v1", "vehicles", vehicle] if vehicle in _VEHICLES:
            return web.json_response(_VEHICLES[vehicle])
        case "GET" | "HEAD", ["v1", "charging-points"]:
            return web.json_response({"charging_points": _CHARGING_POINTS})
        case "POST", ["v1", "vehicles"]:
            return await _create_vehicle(request)
    return web.json_response({"error": "not_found"}, status=404)


async def _create_vehicle(request: web.BaseRequest) -> web.StreamResponse:
    """Answers as if the vehicle had been stored, which it is not."""
    try:
        vehicle = await request.json()
    except ValueError:
        vehicle = None
    if not isinstance(vehicle, dict):
        return web.json_response({"error": "not_a_json_object"}, status=400)
    created = {**vehicle, "id": str(uuid.uuid4()), "state": "draft"}
    return web.json_response(created, status=201, headers={"Location": f"/v1/vehicles/{created['id']}"})


async def _echo(request: web.BaseRequest) -> web.StreamResponse:
    """What arrived. Bytes that are not text are shown as ISO 8859-1, in which each byte is one character."""
    digest, length = hashlib.sha256(), 0
    async for chunk in request.content.iter_any():
        digest.update(chunk)
        length += len(chunk)
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path.encode(errors="surrogateescape").decode("latin-1"),
            "headers": [[name.decode("latin-1"), _shown(name, value)] for name, value in request.raw_headers],
            "body": {"sha256": digest.hexdigest(), "length": length},
        }
    )


def _shown(name: bytes, value: bytes) -> str:
    return "Bearer ***" if name.lower() == b"authorization" else value.decode("latin-1")
