"""Names of files and folders that are made of other files' names."""

from __future__ import annotations

from wanexport.storage.hashes import sha256_text

__all__ = ["safe_name"]


def safe_name(name: str, at_most: int = 100) -> str:
    """Return a name that any file system and terminal takes.

    Control characters, those that turn the direction of text, slashes and backslashes become
    dashes. A name that was changed ends with a hash of what it was, so that no two become one.

    Args:
        name: what to call it, perhaps a LoRA's or a shard's file name.
        at_most: bytes of UTF-8; a longer name is cut.
    """
    kept = "".join(c if c.isprintable() and c not in "/\\" else "-" for c in name)
    if kept == name and len(kept.encode()) <= at_most:
        return name
    digest = sha256_text(repr(name))[:8]  # a name that isn't UTF-8 has no bytes of its own
    return f"{kept.encode()[: at_most - 9].decode(errors='ignore')}-{digest}"
