"""Several processes that serve one data port (`workers: N`).

The parent serves no request. It owns the configuration, the identity and the admin port, and lends the token to its
workers, which know neither the client's secret nor the provider. They are fresh interpreters, each joined to the parent
by a pair of sockets; without the parent they end.

    parent     the data plane of a proxy with workers: starts them, keeps them going, adds up what they count
    process    one worker, as its parent sees it
    child      one worker, as it sees itself; `borrowed` is its token
    channel    what both say to each other; `protocol` is the language
    plan       what is decided without waiting
"""
