"""Reads the configuration: `load` gives frozen settings, or every problem at once.

`sources` finds the texts and merges them, `document` and `schema` turn them into typed values, `checks` judges these by
the rules that types can't hold (with `forms` for what a text looks like), and `notes` says what is odd but not wrong.
"""

from proxy.config.load import Loaded, load

__all__ = ["Loaded", "load"]
