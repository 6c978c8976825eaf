"""thg-proxy: an authenticating sidecar in front of an OAuth2-protected API."""

__version__ = "0.1.0"
