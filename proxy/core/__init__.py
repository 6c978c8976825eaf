"""Pure rules: no await, no clock, no environment, no sockets.

`now` is an argument; failures are values or `proxy.errors`.
"""
