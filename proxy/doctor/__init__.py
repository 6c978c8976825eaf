"""Looks for what keeps the proxy from working, live: every part of the way to a token and to the API, one by one.

A step is a function that gives a `Finding` or raises `Failed`; `examination` has their order, `record` what came of
them. Nothing here prints, and no text that it gives holds a secret.
"""
