"""A small OAuth2 provider and a sample API, for `thg-proxy demo` and for the tests."""
