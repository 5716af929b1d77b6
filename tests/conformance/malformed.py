#!/usr/bin/python3
"""Packets that vipsecd must not forward, each to be counted under its own reason, with good ones between them.

    malformed.py inputs CASE RUN      writes RUN/{outside,inside}-rx.pcap, sealed with the peer's key in CASE/keys.toml
    malformed.py check CASE RUN       judges RUN/{outside,inside}-tx.pcap and the counters in RUN/stdout
"""
import sys
from collections import Counter, namedtuple

from scapy.layers.inet import ICMP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import _ESPPlain
from scapy.packet import Raw

from common import *

INNER = "10.9.0.1"
FORWARDED = "forwarded"

# What it is, the frame, and what becomes of it: a drop reason, or FORWARDED with the packet that leaves on the other side, or the
# counter of what ends here without being dropped.
Case = namedtuple("Case", "what frame reason packet counter", defaults=(None, None, None))


def inner(length=32, **header):
    """A datagram to the echo service, as the host behind the peer would send it."""
    return IP(**({"src": INNER, "dst": VIP, "id": length} | header)) / UDP(sport=30_000, dport=7) / Raw(bytes(range(length)))


def reply(length=32, **header):
    """One from the echo service."""
    return IP(**({"src": VIP, "dst": INNER, "id": length} | header)) / UDP(sport=7, dport=30_000) / Raw(bytes(n % 256 for n in range(length)))


def changed(data, at, flip=1):
    """The bytes with a bit of one of them flipped."""
    data = bytearray(data)
    data[at] ^= flip
    return bytes(data)


class Outside:
    """The peer: seals and sends."""

    def __init__(self, sa):
        self.sa, self.sequence = sa, 0

    def esp(self, packet=None, sequence=None, next_header=4, padding=None, pad_length=None, spi=None):
        """An ESP packet; without arguments a good one, with the next sequence number."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        data = raw(inner() if packet is None else packet)
        if padding is None:
            padding = bytes(range(1, 1 + -(len(data) + 2) % 4))
        plain = _ESPPlain(spi=spi or self.sa.spi, seq=sequence, iv=b"scapy" + sequence.to_bytes(4, "big")[1:], data=data, padding=padding,
                          padlen=len(padding) if pad_length is None else pad_length, nh=next_header)
        return raw(self.sa.scapy.crypt_algo.encrypt(self.sa.scapy, plain, self.sa.scapy.crypt_key))

    @staticmethod
    def udp(payload, ether=None, udp=None, **header):
        """A frame to the VIP's port 4500."""
        ether = Ether(**({"src": PEER_MAC, "dst": VIP_MAC} | (ether or {})))
        return ether / IP(**({"src": PEER, "dst": VIP} | header)) / UDP(**({"sport": 4500, "dport": 4500, "chksum": 0} | (udp or {}))) / Raw(payload)

    def good(self, what, packet=None, leaves=None):
        packet = inner() if packet is None else packet
        return Case(what, self.udp(self.esp(packet)), FORWARDED, leaves or forwarded(raw(packet)))

    def sealed(self, what, reason, *arguments, **keywords):
        return Case(what, self.udp(self.esp(*arguments, **keywords)), reason)


def from_outside(sa):
    peer = Outside(sa)
    yield peer.good("a good packet")
    yield from damaged_esp(peer)
    yield from replays(peer)
    yield from forged(peer)
    yield from wrong_inside(peer)
    yield from other_datagrams(peer)
    yield from other_frames(peer)
    yield peer.good("a good packet at the end")


def damaged_esp(peer):
    for length in (0, 1, 3):
        yield Case(f"UDP with {length} bytes", peer.udp(bytes(length)), "malformed_ike")
    # SPI, number, IV, the two bytes of the trailer and the ICV: 34 bytes.
    for length in (4, 8, 16, 32, 33):
        yield Case(f"{length} bytes of ESP", peer.udp(peer.esp()[:length]), "esp_truncated")
    yield Case("ESP cut by a byte", peer.udp(peer.esp()[:-1]), "esp_misaligned")
    yield Case("ESP cut by four bytes", peer.udp(peer.esp()[:-4]), "esp_bad_icv")
    yield Case("ESP with four bytes more", peer.udp(peer.esp() + bytes(4)), "esp_bad_icv")
    yield peer.sealed("a trailer off the boundary", "esp_misaligned", padding=b"\x01" * (3 + -(len(inner()) + 2) % 4))
    yield peer.sealed("padding that isn't 1, 2, 3", "esp_bad_padding", inner(33), padding=bytes(1 + 4))
    yield peer.sealed("more padding than packet", "esp_bad_padding", padding=b"\x01\x02", pad_length=255)


def replays(peer):
    first = peer.esp()
    yield Case("a packet", peer.udp(first), FORWARDED, forwarded(raw(inner())))
    yield Case("the same again", peer.udp(first), "esp_replayed")
    yield Case("the same from another port", peer.udp(first, udp={"sport": 4501}), "esp_replayed")
    # RFC 4303 section 3.3.3: "the first packet sent using a given SA will contain a sequence number of 1".
    yield peer.sealed("number 0", "esp_replayed", sequence=0)
    peer.sequence += 1023
    late = peer.sequence
    yield peer.good("a jump ahead")
    yield Case("late, but inside the window of 1024", peer.udp(peer.esp(sequence=late)), FORWARDED, forwarded(raw(inner())))
    yield peer.sealed("left of the window", "esp_replayed", sequence=late - 1023)


def forged(peer):
    for what, at in (("number", 7), ("IV", 9), ("ciphertext", 20), ("ICV", -1)):
        yield Case(f"a flipped bit in the {what}", peer.udp(changed(peer.esp(), at)), "esp_bad_icv")
    # RFC 4303 section 3.4.3: "The receive window is updated only if the integrity verification succeeds."
    yield Case("a forged number far ahead", peer.udp(changed(peer.esp(sequence=0xffff_fff0), -1)), "esp_bad_icv")
    genuine = peer.esp()
    yield Case("a forgery", peer.udp(changed(genuine, 20)), "esp_bad_icv")
    yield Case("the packet that it was made from", peer.udp(genuine), FORWARDED, forwarded(raw(inner())))
    yield peer.sealed("an SPI of nobody's", "unknown_spi", spi=0x7670_7670)
    yield peer.sealed("a reserved SPI", "unknown_spi", spi=255)
    yield Case("garbage on port 4500", peer.udp(b"\xa5" * 200), "unknown_spi")


def wrong_inside(peer):
    """What is sealed with the right key and still must not go on."""
    yield peer.sealed("a foreign source", "inbound_selector_mismatch", inner(src="10.8.0.1"))
    yield peer.sealed("a foreign destination", "inbound_selector_mismatch", inner(dst="10.1.0.21"))
    datagram = raw(inner())
    yield peer.sealed("inner version 5", "inner_malformed", b"\x55" + datagram[1:])
    yield peer.sealed("inner header of 16 bytes", "inner_malformed", b"\x44" + datagram[1:])
    yield peer.sealed("inner header longer than the packet", "inner_malformed", b"\x4f" + datagram[1:40])
    yield peer.sealed("a wrong inner header checksum", "inner_malformed", changed(datagram, 11))
    yield peer.sealed("an inner packet longer than its tunnel", "inner_malformed", datagram[:-4])
    yield peer.sealed("an inner packet of nothing", "inner_malformed", b"")
    yield peer.sealed("half a TCP header", "inner_malformed", IP(src=INNER, dst=VIP, proto=6) / Raw(bytes(10)))
    yield peer.sealed("an inner UDP length below 8", "inner_malformed", IP(src=INNER, dst=VIP) / UDP(sport=1, dport=7, len=7) / Raw(bytes(10)))
    yield peer.sealed("IPv6 inside, of nobody's", "inbound_selector_mismatch", IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(), next_header=41)
    yield peer.sealed("IPv6 called IPv4", "inner_malformed", IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP())
    yield peer.sealed("UDP without an inner header", "unexpected_next_header", raw(inner())[20:], next_header=17)
    yield peer.sealed("a dummy packet", "esp_dummy", bytes(40), next_header=59)
    yield Case("a first fragment whose others don't come", peer.udp(peer.esp(inner(flags="MF"))), counter="fragments")
    yield Case("a last fragment whose others don't come", peer.udp(peer.esp(inner(frag=100))), counter="fragments")
    yield Case("an inner TTL of 1", peer.udp(peer.esp(inner(ttl=1))), "ttl_expired", counter="icmp_errors")
    yield Case("an inner TTL of 0", peer.udp(peer.esp(inner(ttl=0))), "ttl_expired", counter="icmp_errors")
    yield peer.sealed("a port without a service", "unknown_service", IP(src=INNER, dst=VIP) / TCP(sport=30_000, dport=81))
    yield Case("congestion on the way, of a packet that can't say so", peer.udp(peer.esp(), tos=3), "inner_congestion")
    # RFC 6040 section 4.2: ECT(0) inside, CE outside becomes CE.
    yield Case("congestion on the way", peer.udp(peer.esp(inner(tos=2)), tos=3), FORWARDED, forwarded(raw(inner(tos=3))))
    # RFC 4303 section 2.7: what follows the inner packet pads it against traffic analysis.
    yield peer.good("a packet with traffic flow confidentiality padding", raw(inner()) + bytes(100), forwarded(raw(inner())))


def other_datagrams(peer):
    yield Case("a NAT-keepalive", peer.udp(b"\xff"), counter="nat_keepalives")
    # All ones in the flags: a response, and nobody answers one.
    yield Case("garbage with a non-ESP marker", peer.udp(bytes(4) + b"\xff" * 60), counter="ike_in")
    yield Case("a non-ESP marker and a wrong checksum", peer.udp(bytes(4) + b"\xff" * 60, udp={"chksum": 0x1234}), "malformed_udp")
    yield Case("a UDP length beyond the packet", peer.udp(peer.esp(), udp={"len": 500}), "malformed_udp")
    yield Case("a UDP length below 8", peer.udp(peer.esp(), udp={"len": 7}), "malformed_udp")
    yield Case("UDP to another port", peer.udp(peer.esp(), udp={"dport": 4501}), "unknown_service")
    clear = Ether(src=PEER_MAC, dst=VIP_MAC) / IP(src=PEER, dst=VIP)
    yield Case("TCP outside the tunnel", clear / TCP(sport=30_000, dport=80), "clear_text")
    # RFC 7296 section 2.23: both kinds of ESP at any time, whatever was negotiated.
    yield Case("ESP without UDP", Ether(src=PEER_MAC, dst=VIP_MAC) / IP(src=PEER, dst=VIP, proto=50) / Raw(peer.esp()), FORWARDED, forwarded(raw(inner())))
    # RFC 3948 section 2.1: the receiver must not depend on the UDP checksum being zero.
    yield Case("ESP with a UDP checksum", peer.udp(peer.esp(), udp={"chksum": None}), FORWARDED, forwarded(raw(inner())))


def other_frames(peer):
    yield Case("an outer fragment of no multiple of eight bytes", peer.udp(peer.esp()[:-1], flags="MF"), "fragment_malformed", counter="fragments")
    yield Case("a wrong outer checksum", peer.udp(peer.esp(), chksum=0x1234), "malformed_ip")
    yield Case("an outer length beyond the frame", peer.udp(peer.esp(), len=1000), "malformed_ip")
    yield Case("for another address", peer.udp(peer.esp(), dst="192.0.2.77"), "not_for_us")
    yield Case("for another station", peer.udp(peer.esp(), ether={"dst": "02:00:00:00:99:99"}), "other_station")
    yield Case("from a group address", peer.udp(peer.esp(), ether={"src": "03:00:00:00:00:01"}), "malformed_frame")
    yield Case("half an Ethernet header", Raw(bytes(8)), "malformed_frame")
    yield Case("IPv6", Ether(src=PEER_MAC, dst=VIP_MAC) / IPv6(src="fe80::1", dst="fe80::2"), "not_for_us")
    yield Case("ARP for another", Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=PEER_MAC, psrc=PEER, pdst="192.0.2.77"), "arp_not_for_us")
    yield Case("half an ARP packet", Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff", type=0x0806) / Raw(bytes(14)), "malformed_arp")
    yield Case("a good packet with Ethernet's padding", raw(peer.udp(peer.esp())) + bytes(18), FORWARDED, forwarded(raw(inner())))


def from_inside():
    target, mac = next(iter(TARGETS.items()))
    ether = Ether(src=mac, dst=GATEWAY_MAC)
    yield Case("a good reply", ether / reply(), FORWARDED, forwarded(raw(reply())))
    yield Case("from a target's own address", ether / reply(src=target), "source_not_vip")
    yield Case("to nobody's network", ether / reply(dst="10.8.0.1"), "no_outbound_sa")
    yield Case("to the gateway itself", ether / reply(src=target, dst=GATEWAY), "unserved_protocol")
    yield Case("for another station", Ether(src=mac, dst="02:00:00:00:99:99") / reply(), "other_station")
    yield Case("a wrong header checksum", ether / reply(chksum=0x1234), "malformed_ip")
    yield Case("a TTL of 1", ether / reply(ttl=1), "ttl_expired", counter="icmp_errors")
    yield Case("too big", ether / reply(1472, flags="DF"), "too_big", counter="icmp_errors")
    yield Case("the biggest that fits", ether / reply(BIGGEST_INNER - 28, flags="DF"), FORWARDED, forwarded(raw(reply(BIGGEST_INNER - 28, flags="DF"))))


# 1500 bytes less IP, UDP, SPI and number, IV, ICV leave 1440 for whole words of ciphertext; two of those bytes are the trailer's.
BIGGEST_INNER = 1500 - 20 - 8 - 8 - 8 - 16 - 2


def cases(folder):
    inbound, _ = child_sa(folder)
    return list(from_outside(inbound)), list(from_inside())


def inputs(case, run):
    outside, inside = cases(case)
    write_frames(run / "outside-rx.pcap", greetings({PEER: PEER_MAC}, VIP) + [one.frame for one in outside])
    write_frames(run / "inside-rx.pcap", greetings(TARGETS, GATEWAY) + [one.frame for one in inside])


def check(case, run):
    outside, inside = cases(case)
    _, outbound = child_sa(case)
    failures = Failures()
    everything = outside + inside

    drops, counters = counted(run)
    expected = Counter(one.reason for one in everything if one.reason not in (None, FORWARDED))
    for reason in sorted(expected.keys() | drops.keys()):
        named = [one.what for one in everything if one.reason == reason]
        failures.equal(f"drops as {reason} (expected of: {'; '.join(named) or 'nothing'})", drops[reason], expected[reason])
    for name, count in Counter(one.counter for one in everything if one.counter).items():
        failures.equal(f"counter {name}", counters.get(name), count)

    sent = [Ether(frame) for frame in frames(run / "inside-tx.pcap") if not is_arp(frame)]
    errors = [frame for frame in sent if ICMP in frame]
    failures.same_packets("inside", [raw(frame.payload) for frame in sent if ICMP not in frame], [one.packet for one in outside if one.reason == FORWARDED])
    check_too_big([frame for frame in errors if frame[ICMP].type == 3], [one.frame for one in inside if one.reason == "too_big"], failures)
    check_expired([IP(raw(frame.payload)) for frame in errors if frame[ICMP].type == 11], GATEWAY, [raw(one.frame.payload) for one in inside if one.reason == "ttl_expired"], failures)

    sealed = [ipv4(frame) for frame in frames(run / "outside-tx.pcap") if not is_arp(frame)]
    opened = [IP(outbound.open(packet)) for packet in sealed]
    failures.same_packets("outside", [raw(packet) for packet in opened if ICMP not in packet], [one.packet for one in inside if one.reason == FORWARDED])
    check_expired([packet for packet in opened if ICMP in packet], VIP, [raw(inner(ttl=ttl)) for ttl in (1, 0)], failures)
    failures.report()
    print(f"{sum(expected.values())} packets dropped for {len(expected)} reasons, {len(sealed) + len(sent) - len(errors)} forwarded")


def check_too_big(errors, causes, failures):
    """RFC 1191 section 4: "fragmentation needed and DF set" with the next hop's MTU, to the target that sent the packet."""
    failures.equal("inside: ICMP errors", len(errors), len(causes))
    for error, cause in zip(errors, causes):
        failures.equal("inside: ICMP error", (error.dst, error[IP].src, error[IP].dst), (cause.src, GATEWAY, cause[IP].src))
        failures.equal("inside: ICMP error: type, code, MTU", (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu), (3, 4, BIGGEST_INNER))
        quote = raw(error[ICMP].payload)
        # RFC 792: the header and 64 bits at least.
        failures.check(len(quote) >= 28 and raw(cause.payload).startswith(quote), f"inside: ICMP error quotes {quote.hex()}")


def check_expired(errors, sender, causes, failures):
    """RFC 792: "time to live exceeded in transit", to whoever sent the packet."""
    failures.equal(f"from {sender}: time exceeded", len(errors), len(causes))
    for error, cause in zip(errors, causes):
        failures.equal("time exceeded: ends, type, code", (error.src, error.dst, error[ICMP].type, error[ICMP].code), (sender, IP(cause).src, 11, 0))
        failures.check(cause.startswith(raw(error[ICMP].payload)), "time exceeded: the quote")


if __name__ == "__main__":
    main(__doc__, inputs, check)
