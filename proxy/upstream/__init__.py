"""The connections to the API: they get finished bytes and know nothing of tokens."""
