"""A cluster of user-mode-Linux machines on one Linux host: the project's test lab."""
