#!/usr/bin/env python3
"""Writes the seeds of the corpus: real packets, made by scapy. Names begin with "seed-"; what a fuzzer found has other names and stays.

Run it where scapy is (Debian: python3-scapy), after a change here; the files are committed.
"""

import base64
import pathlib
import struct

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR, IPOption_Router_Alert, fragment
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


def esp(kind, edge, *packets):
    """An SA, and packets of (distance, damage, mask, plaintext)."""
    made = (struct.pack(">hBBB", distance, damage, mask, len(text)) + text for distance, damage, mask, text in packets)
    return bytes([kind, edge]) + b"".join(made)


def text(payload, pad=0, next_header=4):
    return payload + bytes(range(1, pad + 1)) + bytes([pad, next_header])


GOOD = text(bytes(8), 2)

SEEDS["esp"] = {
    "in-order": esp(0x40, 0, *[(1, 0, 0, GOOD) for _ in range(4)]),
    "chacha-esn": esp(0x46, 16, (1, 0, 0, GOOD), (3, 0, 0, GOOD), (-1, 0, 0, GOOD)),
    "aes-256": esp(0x41, 0, (1, 0, 0, GOOD), (1, 0, 0, text(bytes(6)))),
    "high-half": esp(0x44, 15, *[(0x7FFF, 0, 0, GOOD) for _ in range(3)], (-0x7000, 0, 0, GOOD)),
    "replayed": esp(0x40, 0, (5, 0, 0, GOOD), (0, 0, 0, GOOD), (-4, 0, 0, GOOD), (-4, 0, 0, GOOD)),
    "left-of-window": esp(0x40, 1, (70, 0, 0, GOOD), (-63, 0, 0, GOOD), (-64, 0, 0, GOOD)),
    "wide-window": esp(0x78, 1, (0x2000, 0, 0, GOOD), (-0x1FFF, 0, 0, GOOD), (-0x2000, 0, 0, GOOD)),
    "horizon": esp(0, 0, (64, 0, 0, GOOD), (1, 0x80, 0, GOOD), (1, 0, 0, GOOD), (40, 0, 0, GOOD)),
    "damaged": esp(0x40, 0, *[(1, at, 1, GOOD) for at in (4, 7, 8, 16, 20, 28, 43)]),
    "padding": esp(0x40, 0, (1, 0, 0, text(bytes(2), 4)), (1, 0, 0, bytes(8) + b"\x07\x04"), (1, 0, 0, b"\x02\x02\x02\x04")),
    "short": esp(0x40, 0, (1, 0, 0, b""), (1, 0, 0, b"\0\x04"), (1, 0, 0, bytes(5))),
    "dummy": esp(0x40, 0, (1, 0, 0, text(bytes(6), 0, 59))),
}


def frame(port, packet):
    return struct.pack(">BBH", 0, port, len(raw(packet))) + raw(packet)


def packet(flags, made):
    return struct.pack(">BBH", 1, flags, len(raw(made))) + raw(made)


def sealed(peer, flags, made):
    return struct.pack(">BBBH", 2, peer, flags, len(raw(made))) + raw(made)


def whole(peer, ports, flags, size):
    """A peer's packet, and its target's answer."""
    return bytes([3, peer, ports, flags, size, 11, 0, 3, peer, ports, flags | 1, size, 11, 0])


def installed(peer, kind):
    return bytes([5, peer, kind])


def fragments(flags, made, size):
    pieces = fragment(IP(raw(made)), fragsize=size)
    return b"".join(sealed(1, flags, piece) for piece in pieces)


INNER = {"src": "10.9.0.1", "dst": "192.0.2.1"}
OUTER = {"src": "203.0.113.1", "dst": "192.0.2.1"}
QUERY = UDP(sport=40000, dport=53) / bytes(40)

SEEDS["worker"] = {
    # Every kind of SA, packets of every family and size both ways.
    **{
        f"sa-{kind:02x}": installed(1, kind) + b"".join(whole(1, ports, flags, 9 * ports) for ports, flags in enumerate((0, 2, 4, 12, 6, 16, 32)))
        for kind in (0, 1, 2, 3, 4, 6, 5, 7, 0x10, 0x20, 0x40, 0x80)
    },
    "big": installed(1, 0) + whole(1, 0, 0, 245) + whole(1, 0, 16, 245) + whole(1, 0, 2, 245),
    "narrow": bytes([9, 4]) + installed(1, 0) + whole(1, 0, 0, 215) + whole(1, 0, 16, 215) + whole(1, 0, 2, 215),
    "parked": installed(1, 8) + b"".join(whole(1, 0, 0, n) for n in range(12)) + bytes([7, 1, 10, 11, 0, 7, 1, 255, 11, 0]),
    "bound": installed(1, 0) + whole(1, 0, 0, 1) + bytes([8, 1]) + whole(1, 0, 0, 1) + bytes([7, 1, 9, 11, 0]),
    "replayed": installed(1, 0) + whole(1, 0, 0, 1) + bytes([4, 11, 0, 4, 11, 0]),
    "handed-over": installed(1, 0) + bytes([9, 1]) + whole(1, 0, 0, 1) + bytes([9, 2, 11, 0, 9, 0]) + whole(1, 0, 0, 1),
    "taken-back": installed(1, 0) + bytes([9, 1]) + whole(1, 0, 0, 1) + bytes([9, 0, 11, 0]),
    "policies": bytes([9, 8]) + b"".join(installed(peer, 0) + whole(peer, 0, 0, 1) for peer in (1, 2, 3)),
    "targets-fail": installed(1, 0) + b"".join(whole(1, 8 * n, 0, 1) for n in range(6)) + bytes([9, 0xA0]) + b"".join(whole(1, 8 * n, 0, 1) for n in range(6)),
    "silent-neighbours": installed(1, 0) + bytes([3, 1, 0, 0, 1, 11, 1, 10, 60, 11, 1, 10, 60, 11, 1, 10, 200, 11, 1]),
    "deadline": installed(1, 0) + bytes([10, 255]) + whole(1, 0, 0, 1) + bytes([10, 1]) + whole(1, 0, 0, 1),
    "many-sas": b"".join(installed(peer, 0) + whole(peer, peer, 0, 3) for peer in range(4)) + bytes([6, 2]) + whole(2, 2, 0, 3),
    "rekeyed": installed(2, 0) + installed(1, 8) + whole(1, 0, 0, 1) + bytes([6, 2]) + whole(1, 0, 0, 1),
    "orders": installed(1, 2) + b"".join(bytes([12, 1, what]) for what in range(0, 250, 7)) + bytes([11, 0]),
    "fragments-in-tunnel": installed(1, 0) + fragments(2, IP(id=7, **INNER) / UDP(sport=40000, dport=53) / bytes(900), 400) + bytes([11, 0]),
    "fragments-outside": b"".join(packet(2, piece) for piece in fragment(IP(id=9, **OUTER) / UDP(sport=500, dport=500) / bytes(700), fragsize=300)),
    "ping": installed(1, 0) + sealed(1, 2, IP(**INNER) / ICMP() / b"ping") + packet(2, IP(**OUTER) / ICMP() / b"ping") + bytes([11, 0]),
    "ike": packet(2, IP(**OUTER) / UDP(sport=500, dport=500) / bytes(40)) + packet(2, IP(**OUTER) / UDP(sport=4500, dport=4500) / bytes(40)) + packet(2, IP(**OUTER) / UDP(sport=4500, dport=4500) / b"\xff"),
    "tunnel-error": installed(1, 0) + whole(1, 0, 0, 9) + packet(2, IP(**OUTER) / ICMP(type=3, code=4, nexthopmtu=900) / IP(src="192.0.2.1", dst="203.0.113.1", proto=50) / b"\xc0\0\0\x01\0\0\0\x01") + whole(1, 0, 16, 200),
    "inner-error": installed(1, 0) + whole(1, 0, 0, 9) + sealed(1, 2, IP(**INNER) / ICMP(type=3, code=4, nexthopmtu=900) / IP(src="192.0.2.1", dst="10.9.0.1") / UDP(sport=53, dport=40000)) + bytes([11, 0]),
    "target-error": installed(1, 0) + whole(1, 0, 0, 9) + packet(3, IP(src="192.0.2.1", dst="10.9.0.1") / ICMP(type=3, code=3) / IP(**INNER) / QUERY) + bytes([11, 0]),
    "options": installed(1, 0) + sealed(1, 2, IP(options=OPTIONS, **INNER) / QUERY) + bytes([11, 0]),
    "padded": installed(1, 0) + sealed(1, 2, raw(IP(**INNER) / QUERY) + bytes(60)) + bytes([11, 0]),
    "dummy": installed(1, 0) + sealed(1, 4, b"rubbish") + sealed(1, 0, b"rubbish") + sealed(1, 1, bytes(60)),
    "arp": frame(0, Ether(src="02:00:00:00:00:09", dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="192.0.2.254", pdst="192.0.2.1")) + frame(1, Ether(src="02:00:00:00:00:09", dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.1.0.21", pdst="10.1.0.1")) + bytes([11, 0]),
    "announcement": frame(0, Ether(src="02:00:00:00:00:09", dst="ff:ff:ff:ff:ff:ff", type=0x88B5) / bytes(60)),
}


# What etcd 3.4 answers to a transaction, and what vipsec writes there; the byte before says which (src/registry.rs).
PROCESS = b'{"appliance":1,"incarnation":7}'
RECORD = b'{"owner":' + PROCESS + b',"epoch":4,"copies":[{"appliance":2,"incarnation":18446744073709551615}]}'


def etcd(how, succeeded=b"", record=b"", alive=b""):
    def found(value):
        pair = b'"kvs":[{"key":"L3Y=","create_revision":"2","mod_revision":"5","version":"3","value":"%s"}],"count":"1"'
        return b'{"response_range":{"header":{"revision":"7"}' + (b"," + pair % base64.b64encode(value) if value else b"") + b"}}"

    header = b'{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"7","raft_term":"2"}'
    return bytes([how]) + header + succeeded + b',"responses":[' + found(record) + b"," + found(alive) + b"]}"


SEEDS["registry"] = {
    "nothing": etcd(0),
    "standing": etcd(0, record=RECORD, alive=PROCESS),
    "refused": etcd(1, record=RECORD, alive=PROCESS),
    "written": bytes([1]) + b'{"header":{"revision":"8"},"succeeded":true,"responses":[{"response_put":{"header":{"revision":"8"}}}]}',
    "error": bytes([0]) + b'{"error":"etcdserver: permission denied","code":7}',
    "record": bytes([2]) + RECORD,
    "record-of-the-future": bytes([2]) + RECORD[:-1] + b',"ranks":[1,2]}',
    "process": bytes([4]) + PROCESS,
    "no-process": bytes([4]) + b'{"appliance":0,"incarnation":7}',
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
