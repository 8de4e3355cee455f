"""What users can have done: each use case is a function whose collaborators are its parameters.

They check, decide within one commit, and raise `SwarmshError` with Docker's words where Docker has some. Nothing
here knows HTTP or the command line.
"""
