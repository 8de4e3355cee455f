"""A network's spec as a client sent it, made the one that is stored; or refused, with Docker's words.

Checks and messages are dockerd's (moby `api/types/network/ipam.go`, `daemon/network.go`) and swarmkit's
(`manager/controlapi/network.go`).
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

from msgspec.structs import replace

from swarmsh.core.names import check_name
from swarmsh.core.subnets import LARGEST_PREFIX, SMALLEST_PREFIX, divide
from swarmsh.core.underlay import USUAL_MTU
from swarmsh.errors import Forbidden, InvalidSpec, Unimplemented
from swarmsh.model.specs import IPAMConfig, NetworkSpec

# Those that every Engine has, and those that Swarm or we make on nodes.
RESERVED_NAMES = ("bridge", "host", "none", "default", "ingress", "docker_gwbridge", "swgw")

ENCRYPTED = "encrypted"
MTU = "com.docker.network.driver.mtu"
VNI_LIST = "com.docker.network.driver.overlay.vxlanid_list"
FIRST_VNI, LAST_VNI = 4096, (1 << 24) - 1
_MTUS = (576, 65535)
# Of a packet between nodes: VXLAN in IPv4, and ESP with what it pads (networking.md, 12).
PLAIN_BYTES, ENCRYPTED_BYTES = 50, 90
# This host, loopback, link-local, multicast and reserved (RFC 6890).
_NOT_FOR_HOSTS = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")))
_TRUE, _FALSE = ("", "1", "t", "true"), ("0", "f", "false")


def accept_network(spec: NetworkSpec) -> NetworkSpec:
    """The spec to store. Raises InvalidSpec, Forbidden, or Unimplemented for what is not built."""
    if spec.name in RESERVED_NAMES:
        raise Forbidden(f"operation is not permitted on predefined {spec.name} network")
    check_name(spec.name)
    for key in spec.labels:
        if not key:
            raise InvalidSpec("invalid label '': its key is empty")
    _refuse_other_kinds(spec)
    if spec.ipam is not None:
        if spec.ipam.driver not in ("", "default"):
            raise InvalidSpec("invalid IPAM specified", hint="The only IPAM driver is default")
        if len(spec.ipam.config) > 1:
            raise InvalidSpec(
                f"network {spec.name} has {len(spec.ipam.config)} subnets", hint="Give an overlay one subnet"
            )
        for config in spec.ipam.config:
            _check_config(config)
    mtu(spec)  # and with it whether it is encrypted
    asked_vni(spec)
    return replace(spec, driver="overlay", scope="swarm")


def _refuse_other_kinds(spec: NetworkSpec) -> None:
    if spec.driver not in ("", "overlay"):
        raise Unimplemented(
            f"networks of driver {spec.driver} are not made here",
            hint="Use `--driver overlay`; other networks are each node's own (`docker -H ssh://NODE network …`)",
        )
    if spec.scope not in ("", "swarm"):
        raise InvalidSpec(f"invalid scope {spec.scope!r}", hint="An overlay has scope swarm")
    if spec.enable_ipv6:
        raise Unimplemented("overlays have no IPv6", hint="Leave --ipv6 away: services get IPv4 addresses")
    if spec.enable_ipv4 is False:
        raise Unimplemented("overlays have IPv4", hint="Leave --ipv4=false away")
    if spec.ingress:
        raise Unimplemented(
            "there is no ingress network to make", hint="Every node answers on published ports without one"
        )
    if spec.config_only or (spec.config_from is not None and spec.config_from.network):
        raise Unimplemented("networks that are only a configuration are not supported", hint="Give their options")


# --- addresses ----------------------------------------------------------------------------------------------
def asked_config(spec: NetworkSpec) -> IPAMConfig | None:
    return spec.ipam.config[0] if spec.ipam is not None and spec.ipam.config else None


def _check_config(config: IPAMConfig) -> None:
    subnet = _block("subnet", config.subnet)
    if not LARGEST_PREFIX <= subnet.prefixlen <= SMALLEST_PREFIX:
        raise _wrong(f"invalid subnet {subnet}: it must be of size /{LARGEST_PREFIX} to /{SMALLEST_PREFIX}")
    if any(subnet.overlaps(block) for block in _NOT_FOR_HOSTS):
        raise _wrong(f"invalid subnet {subnet}: hosts have no such addresses")
    if config.ip_range:
        ip_range = _block("ip-range", config.ip_range)
        if ip_range.prefixlen < subnet.prefixlen:
            raise _wrong(f"invalid ip-range {ip_range}: CIDR block is bigger than its parent subnet {subnet}")
        if not ip_range.subnet_of(subnet):
            raise _wrong(f"invalid ip-range {ip_range}: parent subnet {subnet} doesn't contain ip-range")
        if ip_range.prefixlen > SMALLEST_PREFIX:
            raise _wrong(f"invalid ip-range {ip_range}: it must have size /{SMALLEST_PREFIX} or larger")
    if config.gateway:
        _check_address(f"gateway {config.gateway}", config.gateway, subnet)
    gateways = divide(subnet, _block("ip-range", config.ip_range) if config.ip_range else None).gateways
    for name, address in config.auxiliary_addresses.items():
        _check_address(f"auxiliary address {name}", address, subnet)
        if IPv4Address(address) in gateways:
            # They could not be kept free: which of them a node takes follows from its number alone.
            raise _wrong(
                f"invalid auxiliary address {name} {address}: {gateways} is for the nodes' own addresses",
                hint=f"Give one above {gateways.broadcast_address}",
            )


def _block(what: str, text: str) -> IPv4Network:
    address, slash, length = text.partition("/")
    try:
        if not (slash and length.isascii() and length.isdigit()):
            raise ValueError(text)
        block = IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError) as e:
        if ":" in address:
            raise Unimplemented(f"overlays have no IPv6: {what} {text}", hint="Give an IPv4 one") from e
        raise _wrong(f"invalid {what} {text}: invalid CIDR block notation") from e
    if str(block.network_address) != address:
        raise _wrong(f"invalid {what} {text}: it should be {block}")
    return block


def _check_address(what: str, text: str, subnet: IPv4Network) -> None:
    try:
        address = IPv4Address(text)
    except AddressValueError as e:
        raise _wrong(f"invalid {what}: invalid address") from e
    if address not in subnet:
        raise _wrong(f"invalid {what}: parent subnet {subnet} doesn't contain this address")


def _wrong(message: str, hint: str = "") -> InvalidSpec:
    return InvalidSpec(f"invalid network config:\n{message}", hint=hint)


# --- the driver's options -----------------------------------------------------------------------------------
def encrypted(spec: NetworkSpec) -> bool:
    """`-o encrypted` alone means yes."""
    word = spec.options.get(ENCRYPTED)
    if word is None or word.lower() in _FALSE:
        return False
    if word.lower() not in _TRUE:
        raise InvalidSpec(f"invalid option {ENCRYPTED}={word}", hint="Give true or false")
    return True


def mtu(spec: NetworkSpec, links: int = USUAL_MTU) -> int:
    """What is asked for, else what nodes' links carry (`links`: bytes of an IP packet) less what goes around.

    Never more than what is usual unless it is asked for: a link's MTU is not that of the whole way to others.
    """
    text, (low, high) = spec.options.get(MTU, ""), _MTUS
    if not text:
        return max(low, min(links, USUAL_MTU) - (ENCRYPTED_BYTES if encrypted(spec) else PLAIN_BYTES))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and low <= int(text) <= high):
        raise InvalidSpec(f"invalid option {MTU}={text}", hint=f"Give {low} to {high}")
    return int(text)


def asked_vni(spec: NetworkSpec) -> int | None:
    text = spec.options.get(VNI_LIST, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 9 and FIRST_VNI <= int(text) <= LAST_VNI):
        raise InvalidSpec(f"invalid vxlan id value {text!r} passed", hint=f"Give one of {FIRST_VNI} to {LAST_VNI}")
    return int(text)
