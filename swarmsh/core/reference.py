"""Image references: the grammar and the short forms of Docker (`distribution/reference`), parsed and written."""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from swarmsh.errors import InvalidSpec

DEFAULT_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library"
_MOST_CHARACTERS = 255  # of a repository's path

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_IMAGE_ID = re.compile(r"[a-f0-9]{64}")


class Reference(Struct, frozen=True, kw_only=True):
    """A complete image reference: `docker.io/library/nginx:1.27@sha256:…`."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The complete repository name: `docker.io/library/nginx`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository name as people write it: `nginx`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        owner, _, repository = self.path.partition("/")
        return repository if owner == _OFFICIAL and repository and "/" not in repository else self.path

    @property
    def familiar(self) -> str:
        """The reference as people write it: `nginx:1.27@sha256:…`."""
        return self.familiar_name + self._suffix

    def __str__(self) -> str:
        return self.name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def tagged(self) -> Reference:
        """The same with tag `latest`, if it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag="latest")

    def pinned(self, digest: str) -> Reference:
        """The same, pinned to what its tag meant when it was asked for."""
        return replace(self.tagged(), digest=digest)


def parse_reference(text: str) -> Reference:
    """Read a reference in its short or complete form. Raises InvalidSpec with Docker's words."""
    if _IMAGE_ID.fullmatch(text):
        raise InvalidSpec(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, rest = _split_domain(text)
    repository = rest.partition("@")[0].partition(":")[0]
    if repository != repository.lower():
        raise InvalidSpec(f"invalid reference format: repository name ({repository}) must be lowercase")
    found = _REFERENCE.fullmatch(f"{domain}/{rest}")
    if found is None:
        raise InvalidSpec("invalid reference format")
    if len(found["path"]) > _MOST_CHARACTERS:
        raise InvalidSpec(f"repository name must not be more than {_MOST_CHARACTERS} characters")
    digest = found["digest"] or ""
    if digest and not _DIGEST.fullmatch(digest):
        raise InvalidSpec("invalid reference format")
    return Reference(domain=found["domain"], path=found["path"], tag=found["tag"] or "", digest=digest)


def _split_domain(text: str) -> tuple[str, str]:
    """A first part is a registry if it has a dot or a port, is `localhost`, or has capitals (host names may)."""
    first, slash, rest = text.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        domain, rest = DEFAULT_DOMAIN, text
    else:
        domain = DEFAULT_DOMAIN if first == _LEGACY_DOMAIN else first
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = f"{_OFFICIAL}/{rest}"
    return domain, rest
