"""Names for services that were given none: an adjective and a person of science, as Docker does it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import count

_ADJECTIVES = """
able agile amber ample bold brave brisk calm candid clear clever cosmic crisp dapper deft eager early fair fleet
fond frank fresh gentle glad golden grand happy hardy honest humble jolly keen kind lively loyal lucid mellow
merry mild modest neat nimble noble patient placid plucky polite prime proud quick quiet rapid ready serene
sharp silent sincere sleek smart snug solid spry stable steady still sunny swift tidy tranquil trusty upbeat
vivid warm wise witty
"""
_PEOPLE = """
abel agnesi babbage banach bohr boole born cantor cauchy cerf clarke codd curie darwin davy dijkstra dirac
einstein erdos euclid euler faraday fermat fermi feynman floyd franklin galileo galois gauss germain godel
goodall hamilton hamming hardy herschel hilbert hodgkin hopper hubble hypatia jacobi johnson joule kepler knuth
kovalevskaya lagrange lamport laplace leavitt leibniz liskov lovelace maxwell meitner mendel meyer mirzakhani
newton noether pascal pasteur pauling perlman planck poincare ramanujan ride ritchie rubin sagan shannon
somerville tesla thompson torvalds turing volta wiles wing wozniak wu yalow
"""
_LEFT, _RIGHT = _ADJECTIVES.split(), _PEOPLE.split()


def random_name(seed: str) -> Iterator[str]:
    """Names that follow from `seed`, without end; a number is added once they may repeat."""
    for turn in count():
        number = zlib.crc32(f"{seed}/{turn}".encode())
        left, right = _LEFT[number % len(_LEFT)], _RIGHT[number // len(_LEFT) % len(_RIGHT)]
        yield f"{left}_{right}{turn if turn > 10 else ''}"
