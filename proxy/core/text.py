"""Text of strangers, made fit for a line that somebody reads (R151)."""

MAX_TEXT = 256


def one_line(text: str) -> str:
    """At most MAX_TEXT printable characters; what is not printable (controls, bidi, surrogates) is escaped."""
    if len(text) <= MAX_TEXT and text.isprintable():
        return text
    cut = text[: MAX_TEXT + 1]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return cut if len(cut) <= MAX_TEXT else cut[: MAX_TEXT - 1] + "…"
