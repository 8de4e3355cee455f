"""SSH to nodes: pinned connections, jump hosts, keys and agents, and commands with binary standard streams."""

from swarmsh.adapters.ssh.channel import ByteChannel
from swarmsh.adapters.ssh.dial import DialLimits, SshDialer
from swarmsh.adapters.ssh.identity import Identities
from swarmsh.adapters.ssh.link import ChannelRefused, SshLink
from swarmsh.adapters.ssh.pins import known_host_keys

__all__ = ["ByteChannel", "ChannelRefused", "DialLimits", "Identities", "SshDialer", "SshLink", "known_host_keys"]
