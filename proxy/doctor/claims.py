"""What a token says of itself, who has signed it, and what the provider's clock says."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.clients import TOLERABLE_SKEW
from proxy.core.claims import unverified
from proxy.core.grant import Refusal, TokenResponse
from proxy.core.jwt import parse_jwks, verify
from proxy.doctor.record import Failed, Finding
from proxy.doctor.remedies import refused
from proxy.errors import BadJwt, BadKeySet, UnknownKey
from proxy.idp import Provider
from proxy.settings import OAuth
from proxy.verifier import expected_of


async def read_claims(token: TokenResponse, oauth: OAuth) -> Finding[bool]:
    """Nothing of the token itself, and no claim that names a client or a person."""
    found = tuple(_told(token, oauth))
    if token.lifetime(time.time()) <= 0:
        raise Failed("the token is over when it arrives", "Ask whoever runs the identity provider.", found)
    return Finding(value=True, found=found)


def _told(token: TokenResponse, oauth: OAuth) -> Iterator[str]:
    jwt = unverified(token.access_token.reveal())
    if jwt is None:
        yield "opaque: not a JWT, so only the API can tell what is in it"
    else:
        yield f"JWT, alg {jwt.header.get('alg')}, kid {jwt.header.get('kid')}"
        yield f"iss {jwt.claims.get('iss')}"
        yield f"aud {_joined(jwt.claims.get('aud'))}"
    yield from _scopes(token, oauth)
    yield f"expires in {_lifetime(token)}"


def _scopes(token: TokenResponse, oauth: OAuth) -> Iterator[str]:
    """Providers may grant less than was asked for without a word (RFC 6749 §3.3)."""
    asked, granted = oauth.scope or "", token.scope
    yield f"scope asked {asked or 'none'}"
    yield f"scope granted {'as asked' if granted is None else granted or 'none'}"
    if granted is not None and (missing := set(asked.split()) - set(granted.split())):
        yield f"scope not granted {' '.join(sorted(missing))}"


def _joined(audience: Any) -> str:
    """RFC 7519 §4.1.3: one, or a list of them."""
    return (", ".join(map(str, audience)) if isinstance(audience, list) else str(audience)) or "none"


def _lifetime(token: TokenResponse) -> str:
    lifetime = token.lifetime(time.time())
    ends = datetime.fromtimestamp(time.time() + lifetime, UTC)
    assumed = ", assumed: the provider does not say" if token.is_lifetime_unknown else ""
    return f"{timedelta(seconds=round(lifetime))}, at {ends:%Y-%m-%d %H:%M:%S} UTC{assumed}"


async def verify_signature(token: TokenResponse, provider: Provider, oauth: OAuth) -> Finding[bool]:
    """By the keys that the provider publishes, and by what `oauth.verify` expects of the claims."""
    if oauth.verify.mode == "off":
        return Finding(value=True, found=("not checked: oauth.verify.mode is off",))
    if provider.jwks_url is None:
        return Finding(value=True, found=("not checked: neither oauth.issuer nor oauth.jwks_url leads to keys",))
    document = await provider.fetch_jwks()
    if isinstance(document, Refusal):
        raise refused(document, f"Check that the provider has its keys at {provider.jwks_url}.")
    try:
        now = time.time() + token.clock_skew
        verify(token.access_token.reveal(), parse_jwks(document), expected_of(oauth), now)
    except (BadKeySet, UnknownKey) as exc:
        raise Failed(
            exc.detail,
            f"Check that {provider.jwks_url} is of the provider that gave the token. A new key may take five minutes"
            " to appear there.",
        ) from exc
    except BadJwt as exc:
        raise Failed(exc.detail, "Compare oauth.verify with what the claims above say.") from exc
    return Finding(value=True, found=(f"by a key at {provider.jwks_url}",))


async def compare_clocks(token: TokenResponse) -> Finding[bool]:
    """By the `Date` of the token endpoint's answer, which has whole seconds."""
    skew = token.clock_skew
    if abs(skew) <= TOLERABLE_SKEW:
        return Finding(value=True, found=(f"{skew:+.0f} s" if skew else "no difference",))
    side = "behind" if skew > 0 else "ahead of"
    raise Failed(f"the clock of this machine is {abs(skew):.0f} s {side} the provider's", "Let NTP set the clock.")
