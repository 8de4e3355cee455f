"""First file of the archive: unpacks it once, so that byte-code is kept, and runs it.

Importing from a zip would compile every module at every start, which takes seconds on a slow machine.
"""

import os
import sys


def unpacked(archive):
    """Folder with the archive's files; made whole or not at all (the archive's hash is its name)."""
    real = os.path.realpath(archive)
    folder = os.path.join(os.path.dirname(real), "lib-" + os.path.basename(real)[:-4])
    if not os.path.isdir(folder):
        temporary = f"{folder}.{os.getpid()}"
        names = __loader__.get_data(os.path.join(archive, "FILES")).decode().split()
        for name in names:
            target = os.path.join(temporary, name)
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            with open(target, "wb") as file:
                file.write(__loader__.get_data(os.path.join(archive, name)))
        try:
            os.rename(temporary, folder)
        except OSError:
            pass  # another process was faster, with the same content
    return folder


if __name__ == "__main__":
    archive = sys.path[0]
    sys.path[0] = unpacked(archive)
    sys.dont_write_bytecode = False
    sys.modules["ssl"] = None  # asyncio would load it, for 5 MB and much time; nothing here speaks TLS
    from remote_helpers.main import main

    main(archive)
