"""What inputs and oracles share: who is who, captures, and ESP as scapy and tshark understand it. Nothing here is vipsec's own code."""
import json
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

from scapy.compat import raw
from scapy.config import conf
from scapy.layers.inet import IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.layers.l2 import ARP, Ether
from scapy.utils import RawPcapReader, wrpcap

conf.use_pcap = False

HERE = Path(__file__).parent
CONFIG = tomllib.loads((HERE / "vipsecd.toml").read_text())
APPLIANCE_ID = CONFIG["appliance"]["id"]
VIP, VIP_MAC = CONFIG["vip"][0]["address"], CONFIG["vip"][0]["mac"]
GATEWAY, GATEWAY_MAC = CONFIG["vip"][0]["gateways"][0]["address"], CONFIG["vip"][0]["gateways"][0]["mac"]
# The remote peer's MAC address is that of the recordings; the targets' are made up here.
PEER, PEER_MAC = "192.0.2.100", "02:00:00:00:02:00"
TARGETS = {target["address"]: f"02:00:00:00:03:{n:02x}" for n, target in enumerate(CONFIG["target"])}

# A worker reads the two captures in turn, a burst each: nothing says which packet of the one comes before which of the other. So each
# begins with more than enough ARP requests that the neighbours of both sides are known before the first packet needs them (RFC 826:
# who is asked for its own address remembers the asker).
GREETINGS = 128


class Sa:
    """One direction of the child SA in a keys.toml."""

    def __init__(self, keys, direction):
        self.spi, self.key = keys[f"spi_{direction}"], bytes.fromhex(keys[f"key_{direction}"])
        self.scapy = SecurityAssociation(ESP, spi=self.spi, crypt_algo="AES-GCM", crypt_key=self.key,
                                         tunnel_header=IP(src=PEER, dst=VIP), nat_t_header=UDP(sport=4500, dport=4500))

    def open(self, packet):
        """The inner packet's bytes, from an outer IP packet's; raises when the ICV is wrong."""
        return raw(self.scapy.decrypt(IP(packet)))

    def uat(self):
        """A line of tshark's table of ESP SAs."""
        fields = ("IPv4", "*", "*", f"{self.spi:#010x}", "AES-GCM with 16 octet ICV [RFC4106]", f"0x{self.key.hex()}", "NULL", "", "32-bit")
        return "uat:esp_sa:" + ",".join(f'"{field}"' for field in fields)


def child_sa(folder):
    """(inbound, outbound), as the appliance sees them."""
    keys = tomllib.loads((Path(folder) / "keys.toml").read_text())["child"][0]
    return Sa(keys, "in"), Sa(keys, "out")


def frames(capture):
    reader = RawPcapReader(str(capture))
    try:
        return [frame for frame, _ in reader]
    finally:
        reader.close()


def write_frames(capture, packets):
    wrpcap(str(capture), [raw(packet) for packet in packets], linktype=1)


def greetings(who, whom):
    """ARP requests of each in `who` ({address: MAC}) for `whom`."""
    one = [Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op="who-has", hwsrc=mac, psrc=address, pdst=whom) for address, mac in who.items()]
    return (one * GREETINGS)[:GREETINGS]


def is_arp(frame):
    return frame[12:14] == b"\x08\x06"


def ipv4(frame):
    """The IPv4 packet of a frame without Ethernet padding; empty if it carries something else."""
    if frame[12:14] != b"\x08\x00":
        return b""
    return frame[14:14 + int.from_bytes(frame[16:18], "big")]


def forwarded(packet):
    """The packet as a router passes it on: TTL less one, header checksum recomputed."""
    packet = IP(packet)
    packet.ttl -= 1
    del packet.chksum
    return raw(packet)


def tshark(capture, fields, sas=(), options=()):
    """One dict of fields per frame, values as text; repeated fields (outer and inner header) are joined by commas."""
    command = ["tshark", "-r", str(capture), "-T", "fields", "-E", "separator=|"]
    for option in ("esp.enable_encryption_decode:TRUE", "esp.enable_authentication_check:TRUE", "ip.check_checksum:TRUE",
                   "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE", *options, *(sa.uat() for sa in sas)):
        command += ["-o", option]
    for field in fields:
        command += ["-e", field]
    text = subprocess.run(command, check=True, text=True, capture_output=True).stdout
    return [dict(zip(fields, line.split("|"))) for line in text.splitlines()]


def counted(run):
    """(drops that happened, other counters), by name, as vipsecd's last line says."""
    last = json.loads((run / "stdout").read_text().splitlines()[-1])
    return +Counter(last["drops"]), last["counters"]


class Failures:
    """Collects what differs, so that one run shows everything."""

    def __init__(self):
        self.lines = []

    def check(self, condition, text):
        if not condition:
            self.lines.append(text)

    def equal(self, what, found, expected):
        if isinstance(found, list) and len(found) == len(expected):
            for index, (one, other) in enumerate(zip(found, expected)):
                self.check(one == other, f"{what}: at {index}: found {one!r}, expected {other!r}")
        else:
            self.check(found == expected, f"{what}: found {found!r}, expected {expected!r}")

    def same_packets(self, what, found, expected):
        """Both lists hold the same packets, in any order, each exactly as often."""
        missing, extra = list(expected), []
        for packet in found:
            if packet in missing:
                missing.remove(packet)
            else:
                extra.append(packet)
        for word, packets in (("missing", missing), ("not expected", extra)):
            for packet in packets[:3]:
                self.lines.append(f"{what}: {word}: {IP(packet).summary()} {packet.hex()}")
            if packets:
                self.lines.append(f"{what}: {len(packets)} {word} in all")

    def report(self):
        if self.lines:
            raise SystemExit("\n".join(self.lines[:20]))


def main(usage, inputs, check):
    match sys.argv[1:]:
        case ["inputs" | "check" as action, case, run]:
            {"inputs": inputs, "check": check}[action](Path(case), Path(run))
        case _:
            sys.exit(usage)
