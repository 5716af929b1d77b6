#!/usr/bin/env python3
"""Writes the seeds of the corpus: real packets, made by scapy. Names begin with "seed-"; what a fuzzer found has other names and stays.

Run it where scapy is (Debian: python3-scapy), after a change here; the files are committed.
"""

import pathlib
import struct

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR, IPOption_Router_Alert
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import raw

CORPUS = pathlib.Path(__file__).parent / "corpus"

MAC = dict(src="02:00:00:00:00:09", dst="02:76:70:00:00:01")
V4 = dict(src="198.51.100.7", dst="192.0.2.1")
V6 = dict(src="2001:db8:9::7", dst="2001:db8::1")
OPTIONS = [IPOption_Router_Alert(), IPOption_RR(routers=["0.0.0.0"] * 3), IPOption_NOP()]
SYN = dict(sport=40000, dport=80, flags="S")
MSS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]

PACKETS_V4 = {
    "udp": IP(tos=0xB9, **V4) / UDP(sport=500, dport=500) / b"ike",
    "tcp": IP(flags="DF", **V4) / TCP(options=MSS, **SYN),
    "options": IP(options=OPTIONS, **V4) / UDP(sport=1, dport=2) / b"data",
    "esp": IP(**V4) / ESP(spi=0xC0DE, seq=1, data=b"sealed" * 6),
    "ah": IP(**V4) / AH(spi=1, seq=1, icv=b"i" * 12) / UDP(),
    "echo": IP(**V4) / ICMP(id=1, seq=2) / b"ping",
    "error": IP(**V4) / ICMP(type=3, code=4, nexthopmtu=1400) / IP(src="192.0.2.1", dst="198.51.100.7") / ESP(spi=0xC0DE, seq=7),
    "first": IP(id=9, flags="MF", proto=17, **V4) / (b"\x01\xf4\x01\xf4\x05\x00\0\0" + b"x" * 40),
    "later": IP(id=9, frag=6, proto=17, **V4) / (b"y" * 40),
    "padded": raw(IP(**V4) / TCP(sport=80, dport=40000, flags="FA")) + b"\0" * 6,
    "ttl": IP(ttl=1, **V4) / UDP(),
}

PACKETS_V6 = {
    "udp": IPv6(tc=0xB9, fl=0x12345, **V6) / UDP(sport=500, dport=500) / b"ike",
    "tcp": IPv6(**V6) / TCP(options=MSS, **SYN),
    "esp": IPv6(**V6) / ESP(spi=0xC0DE, seq=1, data=b"sealed" * 6),
    "ah": IPv6(**V6) / AH(spi=1, seq=1, icv=b"i" * 12) / UDP(),
    "echo": IPv6(**V6) / ICMPv6EchoRequest(id=1, seq=2, data=b"ping"),
    "hop-by-hop": IPv6(**V6) / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / UDP() / b"data",
    "chain": IPv6(**V6)
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 10)])
    / IPv6ExtHdrRouting(type=2, segleft=0, addresses=["2001:db8::9"])
    / IPv6ExtHdrFragment(id=7)
    / IPv6ExtHdrDestOpt()
    / TCP(**SYN),
    "routing-0": IPv6(**V6) / IPv6ExtHdrRouting(type=0, segleft=1, addresses=["2001:db8::9"]) / UDP(),
    "unknown-option": IPv6(**V6) / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x9E, optdata=b"1234")]) / UDP(),
    "first": IPv6(**V6) / IPv6ExtHdrFragment(id=9, m=1, nh=60) / IPv6ExtHdrDestOpt(nh=17) / (b"\x01\xf4\x01\xf4\x05\x00\0\0" + b"x" * 40),
    "later": IPv6(**V6) / IPv6ExtHdrFragment(id=9, offset=6, nh=60) / (b"y" * 40),
    "no-next-header": IPv6(nh=59, **V6) / b"padding",
    "mapped": IPv6(src="::ffff:198.51.100.7", dst="2001:db8::1") / UDP(),
}

LINK = dict(src="fe80::9", hlim=255)
PACKETS_ICMPV6 = {
    "echo": PACKETS_V6["echo"],
    "reply": IPv6(**V6) / ICMPv6EchoReply(id=1, seq=2, data=b"ping"),
    "too-big": IPv6(**V6) / ICMPv6PacketTooBig(mtu=1400) / IPv6(src="2001:db8::1", dst="2001:db8:9::7") / ESP(spi=0xC0DE, seq=7),
    "time-exceeded": IPv6(**V6) / ICMPv6TimeExceeded() / IPv6(src="2001:db8::1", dst="2001:db8:9::7") / TCP(sport=80, dport=40000),
    "unreachable": IPv6(**V6)
    / ICMPv6DestUnreach(code=4)
    / IPv6(src="2001:db8::1", dst="2001:db8:9::7")
    / IPv6ExtHdrDestOpt()
    / UDP(sport=4500, dport=4500)
    / b"\xc0\xde\x00\x01esp",
    "solicitation": IPv6(dst="ff02::1:ff00:1", **LINK) / ICMPv6ND_NS(tgt="2001:db8::1") / ICMPv6NDOptSrcLLAddr(lladdr=MAC["src"]),
    "detection": IPv6(src="::", dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt="2001:db8::1"),
    "advertisement": IPv6(dst="fe80::1", **LINK) / ICMPv6ND_NA(R=1, S=1, O=1, tgt="fe80::9") / ICMPv6NDOptDstLLAddr(lladdr=MAC["src"]),
    "unsolicited": IPv6(dst="ff02::1", **LINK) / ICMPv6ND_NA(R=0, S=0, O=1, tgt="fe80::9") / ICMPv6NDOptDstLLAddr(lladdr=MAC["src"]),
    "other-options": IPv6(dst="ff02::1:ff00:1", **LINK)
    / ICMPv6ND_NS(tgt="2001:db8::1")
    / ICMPv6NDOptMTU()
    / ICMPv6NDOptSrcLLAddr(lladdr=MAC["src"]),
    "router": IPv6(dst="ff02::1", **LINK) / ICMPv6ND_RA(),
}

ARP_IPS = dict(psrc="192.0.2.254", pdst="192.0.2.1")


def upper(packet):
    """The packet without its IP header."""
    return raw(packet.payload)


def steps(*instructions):
    """Instructions of the target "reassembly": (is_v6, more, variant, ecn, datagram), offset, length, time."""
    return b"".join(
        bytes([v6 | more << 1 | variant << 2 | ecn << 3 | datagram << 5, offset, length, time])
        for (v6, more, variant, ecn, datagram), offset, length, time in instructions
    )


def whole(v6, ecn=0, datagram=0):
    return steps(((v6, 1, 0, ecn, datagram), 0, 100, 0), ((v6, 0, 0, ecn, datagram), 100, 0x80 | 20, 0))


SEEDS = {
    "ethernet": {
        "request": Ether(**MAC) / ARP(op=1, **ARP_IPS),
        "reply": Ether(**MAC) / ARP(op=2, hwdst=MAC["dst"], **ARP_IPS),
        "announcement": Ether(src=MAC["src"], dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, psrc="192.0.2.1", pdst="192.0.2.1"),
        "padded": raw(Ether(**MAC) / ARP(op=1, **ARP_IPS)).ljust(60, b"\0"),
        "other-network": Ether(**MAC) / ARP(hwtype=6, **ARP_IPS),
        "ipv4": Ether(**MAC) / PACKETS_V4["udp"],
        "ipv6": Ether(**MAC) / PACKETS_V6["udp"],
        "vlan": Ether(**MAC) / Dot1Q(vlan=7) / PACKETS_V4["udp"],
    },
    "ip": {
        **{f"v4-{name}": packet for name, packet in PACKETS_V4.items()},
        **{f"v6-{name}": packet for name, packet in PACKETS_V6.items()},
    },
    "ipv4": PACKETS_V4,
    "ipv6": PACKETS_V6,
    # Behind two bytes of MTU.
    "fragment": {
        f"{name}-{mtu}": struct.pack("!H", mtu) + raw(packet)
        for mtu, packets in {
            100: {
                "v4": IP(id=7, **V4) / UDP() / bytes(300),
                "options": IP(id=7, options=OPTIONS, **V4) / UDP() / bytes(300),
                "again": IP(id=7, flags="MF", frag=20, proto=17, **V4) / bytes(304),
                "dont": IP(id=7, flags="DF", **V4) / UDP() / bytes(300),
                "v6": IPv6(**V6) / UDP() / bytes(300),
                "chain": IPv6(**V6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP() / bytes(300),
            },
            1280: {"v4": IP(id=7, **V4) / UDP() / bytes(1900), "v6": IPv6(**V6) / UDP() / bytes(1900)},
        }.items()
        for name, packet in packets.items()
    },
    "icmp": {
        "echo": ICMP(id=1, seq=2) / b"ping",
        "reply": ICMP(type=0, id=1, seq=2) / b"ping",
        "fragmentation-needed": upper(PACKETS_V4["error"]),
        "unreachable": ICMP(type=3, code=3) / IP(src="192.0.2.1", dst="198.51.100.7") / UDP(sport=4500, dport=4500) / b"\xc0\xde\x00\x01",
        "time-exceeded": ICMP(type=11) / IP(src="192.0.2.1", dst="198.51.100.7", options=OPTIONS) / TCP(sport=80, dport=40000),
        "later-fragment": ICMP(type=11) / IP(src="192.0.2.1", dst="198.51.100.7", frag=9) / b"12345678",
    },
    "icmpv6": PACKETS_ICMPV6,
    "udp": {
        "ike": upper(PACKETS_V4["udp"]),
        "v6": upper(PACKETS_V6["udp"]),
        "no-checksum": UDP(sport=4500, dport=4500, chksum=0) / b"\xc0\xde\x00\x01sealed",
        "keepalive": UDP(sport=4500, dport=4500) / b"\xff",
        "padded": raw(UDP(sport=1, dport=2) / b"data") + b"\0" * 9,
    },
    # Behind two bytes of MSS.
    "tcp": {
        name: b"\x05\x50" + raw(packet)
        for name, packet in {
            "syn": TCP(options=MSS, **SYN),
            "syn-ack": TCP(sport=80, dport=40000, flags="SA", options=[("MSS", 1400)]),
            "odd": TCP(options=[("NOP", None), ("MSS", 9000), ("WScale", 7)], **SYN) / b"data",
            "twice": TCP(options=[("MSS", 1460), ("MSS", 8000)], **SYN),
            "small": TCP(options=[("MSS", 536)], **SYN),
            "none": TCP(**SYN),
            "data": TCP(sport=80, dport=40000, flags="PA") / b"data",
        }.items()
    },
    "gue": {
        "v4": b"\0\x04\0\0" + raw(PACKETS_V4["udp"]),
        "v6": b"\0\x29\0\0" + raw(PACKETS_V6["udp"]),
        "private": b"\x02\x04\0\0private!" + raw(PACKETS_V4["udp"]),
        "control": b"\x20\x01\0\0",
        "flags": b"\x01\x04\x80\0abcd" + raw(PACKETS_V4["udp"]),
        "variant-1": raw(PACKETS_V4["udp"]),
    },
    "reassembly": {
        "whole-v4": whole(0),
        "whole-v6": whole(1),
        "reversed": steps(((0, 0, 0, 0, 1), 100, 20, 0), ((0, 1, 0, 0, 1), 0, 100, 0)),
        "overlap": steps(((0, 1, 0, 0, 0), 0, 50, 0), ((0, 1, 0, 0, 0), 49, 50, 0), ((0, 0, 0, 0, 0), 99, 3, 0)),
        "duplicate": steps(((1, 1, 0, 0, 0), 0, 50, 0), ((1, 1, 0, 0, 0), 0, 50, 0), ((1, 0, 0, 0, 0), 50, 3, 0)),
        "other-content": steps(((1, 1, 0, 0, 0), 0, 50, 0), ((1, 1, 1, 0, 0), 0, 50, 0)),
        "congestion": steps(((0, 1, 0, 2, 0), 0, 50, 0), ((0, 0, 0, 3, 0), 50, 3, 0)),
        "congestion-mixed": steps(((0, 1, 0, 0, 0), 0, 50, 0), ((0, 0, 0, 3, 0), 50, 3, 0)),
        "eviction": steps(*[((n & 1, 1, 0, 0, n), 0, 50, 1) for n in range(8)]),
        "timeout": steps(((0, 1, 0, 0, 0), 0, 50, 60), ((1, 1, 0, 0, 0), 50, 50, 60), ((0, 0, 0, 0, 0), 50, 2, 0)),
        "two-ends": steps(((0, 0, 0, 0, 0), 50, 2, 0), ((0, 0, 0, 0, 0), 60, 2, 0)),
        "too-large": steps(((0, 1, 0, 0, 0), 0, 100, 0), ((0, 1, 0, 0, 0), 250, 100, 0), ((0, 0, 0, 0, 0), 100, 2, 0)),
        "raw-v4": steps(((0, 1, 0, 0, 0), 0, 50, 255)) + raw(PACKETS_V4["first"]),
        "raw-v6": steps(((0, 1, 0, 0, 0), 0, 50, 255)) + raw(PACKETS_V6["later"]),
    },
}


def main():
    for target, seeds in SEEDS.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("seed-*"):
            old.unlink()
        for name, seed in seeds.items():
            (folder / f"seed-{name}").write_bytes(seed if isinstance(seed, bytes) else raw(seed))
    print(f"{sum(map(len, SEEDS.values()))} seeds for {len(SEEDS)} targets")


if __name__ == "__main__":
    main()
