"""Which implementation a path's files have."""

from __future__ import annotations

import re

from trainer.errors import ConfigError
from trainer.storage.files import Files
from trainer.storage.gfile import GfileFiles
from trainer.storage.ram import RamFiles

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_files(path: str) -> Files:
    """The implementation for `path`: the local one, or, where it has a scheme, TensorFlow's, which is then imported.

    Raises:
      ConfigError: TensorFlow does not know the scheme; or it is `file`, whose files would not be made durable.
    """
    match = _SCHEME.match(path)
    if match is None:
        return Files()
    if match[1] == "file":
        raise ConfigError(f"{path} is local and needs no scheme; expected {path[match.end() :]}")
    import tensorflow as tf

    known = sorted(f"{scheme}://" for scheme in tf.io.gfile.get_registered_schemes() if scheme not in ("", "file"))
    if match[0] not in known:
        raise ConfigError(f"{path} begins with {match[0]}; expected {', '.join(known)} or a local path")
    return RamFiles() if match[0] == "ram://" else GfileFiles()
